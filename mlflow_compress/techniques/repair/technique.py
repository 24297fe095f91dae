"""``repair``: bring a compressed model's outputs back towards the source's, without labels."""

from typing import TYPE_CHECKING, Any, ClassVar

from mlflow_compress.techniques.base import Context, Phase, Result, Technique

if TYPE_CHECKING:
    import onnx
from mlflow_compress.techniques.repair.settings import RepairSettings

__all__ = ["TECHNIQUE", "Repair"]


class Repair(Technique[RepairSettings]):
    """Refits weights, BatchNormalization statistics and biases, each only where it helps."""

    name = "repair"
    settings = RepairSettings
    phase = Phase.REPAIR
    space: ClassVar[dict[str, Any]] = {
        "weights": {"choices": [True, False]},
        "biases": {"choices": [True, False]},
    }

    def needs_calibration(self, settings: RepairSettings) -> bool:
        """Always: the source's activations are what it repairs by."""
        return True

    def apply(self, model: "onnx.ModelProto", settings: RepairSettings, context: Context) -> Result:
        """See :func:`mlflow_compress.techniques.repair.onnx.restore`."""
        from mlflow_compress.techniques.repair.onnx import restore

        return restore(model, settings, context)


TECHNIQUE = Repair()
