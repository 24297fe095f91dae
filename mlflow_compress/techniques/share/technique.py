"""``share``: let the weights of a tensor share a few values."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from mlflow_compress.techniques.base import (
    Context,
    Phase,
    Result,
    Technique,
    between,
    check_choices,
)
from mlflow_compress.techniques.data import Training

if TYPE_CHECKING:
    import onnx

__all__ = ["TECHNIQUE", "Share", "ShareSettings"]


@dataclass(frozen=True)
class ShareSettings(Training):
    """Settings of ``share``; those of :class:`Training` count when there are training data.

    Attributes:
        clusters: how many different values a tensor may hold, zero included, 2 to 4096.
        start: where k-means begins; ``auto`` is exact dynamic programming for up to 32 clusters
            and the best of the other three above.
        biases: whether biases share values too (at least 32 of them).
        exclude: names of tensors to leave alone.
    """

    clusters: int = field(default=16, metadata={"telling": True})
    start: Literal["auto", "linear", "density", "quantile"] = "auto"
    biases: bool = True
    exclude: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_choices("share", self)
        self.check_training("share")
        between("share.clusters", self.clusters, 2, 4096)


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
