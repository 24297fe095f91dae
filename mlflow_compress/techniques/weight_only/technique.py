"""``weight_only``: weights of 2 to 8 bits, activations in float."""

from typing import TYPE_CHECKING, Any, ClassVar

from mlflow_compress.techniques.base import (
    Context,
    Phase,
    Result,
    Technique,
)

if TYPE_CHECKING:
    import onnx
from mlflow_compress.techniques.weight_only.settings import WeightOnlySettings

__all__ = ["TECHNIQUE", "WeightOnly"]


class WeightOnly(Technique[WeightOnlySettings]):
    """Symmetric integers with a scale per output channel or group; pruned zeros stay zeros."""

    name = "weight_only"
    settings = WeightOnlySettings
    phase = Phase.QUANTIZE
    space: ClassVar[dict[str, Any]] = {
        "bits": {"choices": [2, 3, 4, 8]},
        "group_size": {"choices": [0, 32, 64, 128]},
    }

    def needs_calibration(self, settings: WeightOnlySettings) -> bool:
        """Rounding to the nearest looks at weights only."""
        return settings.method == "gptq"

    def apply(
        self, model: "onnx.ModelProto", settings: WeightOnlySettings, context: Context
    ) -> Result:
        """See :func:`mlflow_compress.techniques.weight_only.onnx.weight_only`."""
        from mlflow_compress.techniques.weight_only.onnx import weight_only

        return weight_only(model, settings, context)


TECHNIQUE = WeightOnly()
