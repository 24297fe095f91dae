"""``neural_compressor``: weights of 2, 3, 4 or 8 bits by Intel Neural Compressor's GPTQ or RTN."""

from typing import TYPE_CHECKING, Any, ClassVar

from mlflow_compress.techniques import (
    Context,
    Phase,
    Result,
    Technique,
)
from mlflow_compress_neural_compressor.settings import BITS, WeightSettings

if TYPE_CHECKING:
    import onnx

__all__ = ["TECHNIQUE", "NeuralCompressor", "WeightSettings"]


class NeuralCompressor(Technique[WeightSettings]):
    """Integers by Intel Neural Compressor in the place of weights; the graph stays what it was."""

    name = "neural_compressor"
    settings = WeightSettings
    phase = Phase.QUANTIZE
    space: ClassVar[dict[str, Any]] = {
        "bits": {"choices": list(BITS)},
        "group_size": {"choices": [0, 32, 64, 128]},
    }

    def needs_calibration(self, settings: WeightSettings) -> bool:
        """Rounding to the nearest looks at weights only."""
        return settings.algorithm == "gptq"

    def needs_modules(self, settings: WeightSettings, *, trains: bool) -> dict[str, str]:
        """Everything is done by the library."""
        return {"neural_compressor": "mlflow-compress-neural-compressor"}

    def apply(self, model: "onnx.ModelProto", settings: WeightSettings, context: Context) -> Result:
        """See :func:`mlflow_compress_neural_compressor.torch_weights.quantize_weights`."""
        from mlflow_compress_neural_compressor.torch_weights import quantize_weights

        return quantize_weights(model, settings, context)


TECHNIQUE = NeuralCompressor()
