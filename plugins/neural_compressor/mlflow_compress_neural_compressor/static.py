"""``neural_compressor_static``: 8-bit weights and activations by the library's PT2E path."""

from typing import TYPE_CHECKING, Any, ClassVar

from mlflow_compress.techniques import Context, Phase, Result, Technique
from mlflow_compress_neural_compressor.settings import StaticSettings

if TYPE_CHECKING:
    import onnx

__all__ = ["TECHNIQUE", "NeuralCompressorStatic", "StaticSettings"]


class NeuralCompressorStatic(Technique[StaticSettings]):
    """Static int8 in QDQ form; the graph is exported again, with the names of its ends kept."""

    name = "neural_compressor_static"
    settings = StaticSettings
    phase = Phase.QUANTIZE
    space: ClassVar[dict[str, Any]] = {
        "method": {"choices": ["minmax", "kl"]},
        "per_channel": {"choices": [True, False]},
    }

    def needs_calibration(self, settings: StaticSettings) -> bool:
        """Activation ranges come from calibration inputs."""
        return True

    def needs_modules(self, settings: StaticSettings, *, trains: bool) -> dict[str, str]:
        """Everything is done by the library."""
        return {"neural_compressor": "mlflow-compress-neural-compressor"}

    def apply(self, model: "onnx.ModelProto", settings: StaticSettings, context: Context) -> Result:
        """See :func:`mlflow_compress_neural_compressor.torch_static.quantize_static`."""
        from mlflow_compress_neural_compressor.torch_static import quantize_static

        return quantize_static(model, settings, context)


TECHNIQUE = NeuralCompressorStatic()
