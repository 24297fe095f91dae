"""``share``: let the weights of a tensor share a few values."""

from typing import TYPE_CHECKING, Any, ClassVar

from mlflow_compress.techniques.base import (
    Context,
    Phase,
    Result,
    Technique,
)

if TYPE_CHECKING:
    import onnx
from mlflow_compress.techniques.share.settings import ShareSettings

__all__ = ["TECHNIQUE", "Share"]


class Share(Technique[ShareSettings]):
    """Weight sharing by 1-D k-means; zeros that pruning made stay exact zeros."""

    name = "share"
    settings = ShareSettings
    phase = Phase.SHARE
    space: ClassVar[dict[str, Any]] = {"clusters": {"choices": [4, 8, 16, 32, 64, 256]}}

    def apply(self, model: "onnx.ModelProto", settings: ShareSettings, context: Context) -> Result:
        """See :func:`mlflow_compress.techniques.share.onnx.share`."""
        if context.train is not None and settings.epochs:
            from mlflow_compress.techniques.share.torch import trained_share

            return trained_share(model, settings, context)
        from mlflow_compress.techniques.share.onnx import share

        return share(model, settings)


TECHNIQUE = Share()
