"""``prune``: set the weights that matter least to zero."""

from typing import TYPE_CHECKING, Any, ClassVar

from mlflow_compress.techniques.base import (
    Context,
    Phase,
    Result,
    Technique,
)

if TYPE_CHECKING:
    import onnx
from mlflow_compress.techniques.prune.settings import PruneSettings

__all__ = ["TECHNIQUE", "Prune"]


class Prune(Technique[PruneSettings]):
    """Sets weights of Conv, ConvTranspose, Gemm, MatMul, LSTM, GRU and RNN to exact zeros."""

    name = "prune"
    settings = PruneSettings
    phase = Phase.PRUNE
    space: ClassVar[dict[str, Any]] = {
        "sparsity": {"low": 0.5, "high": 0.97},
        "scope": {"choices": ["global", "layer"]},
    }

    def needs_calibration(self, settings: PruneSettings) -> bool:
        """Only the repair and two of the methods look at activations."""
        return settings.repair or settings.method in ("wanda", "obs")

    def apply(self, model: "onnx.ModelProto", settings: PruneSettings, context: Context) -> Result:
        """See :func:`mlflow_compress.techniques.prune.onnx.prune`."""
        if context.train is not None and settings.epochs:
            from mlflow_compress.techniques.prune.torch import prune as trained_prune

            return trained_prune(model, settings, context)
        from mlflow_compress.techniques.prune.onnx import prune

        return prune(model, settings, context)


TECHNIQUE = Prune()
