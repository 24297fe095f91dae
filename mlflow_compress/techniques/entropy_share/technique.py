"""``entropy_share``: the values that cost the fewest bits for the error they make."""

from typing import TYPE_CHECKING, Any, ClassVar

from mlflow_compress.techniques.base import Context, Phase, Result, Technique

if TYPE_CHECKING:
    import onnx
from mlflow_compress.techniques.entropy_share.settings import EntropyShareSettings

__all__ = ["TECHNIQUE", "EntropyShare"]


class EntropyShare(Technique[EntropyShareSettings]):
    """Entropy-constrained quantization to a uniform grid per tensor; pruned zeros stay zeros."""

    name = "entropy_share"
    settings = EntropyShareSettings
    phase = Phase.SHARE
    space: ClassVar[dict[str, Any]] = {"bits": {"low": 0.2, "high": 4.0, "log": True}}

    def needs_calibration(self, settings: EntropyShareSettings) -> bool:
        """Without feedback all inputs count alike, and none are needed."""
        return settings.feedback

    def apply(
        self, model: "onnx.ModelProto", settings: EntropyShareSettings, context: Context
    ) -> Result:
        """See :func:`mlflow_compress.techniques.entropy_share.onnx.entropy_share`."""
        if context.train is not None and settings.epochs:
            from mlflow_compress.techniques.entropy_share.torch import entropy_share as trained

            return trained(model, settings, context)
        from mlflow_compress.techniques.entropy_share.onnx import entropy_share

        return entropy_share(model, settings, context)


TECHNIQUE = EntropyShare()
