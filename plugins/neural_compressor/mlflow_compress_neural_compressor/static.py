"""``neural_compressor_static``: 8-bit weights and activations by the library's PT2E path."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from mlflow_compress.techniques import Context, Phase, Result, Technique, at_least, check_choices

if TYPE_CHECKING:
    import onnx

__all__ = ["TECHNIQUE", "NeuralCompressorStatic", "StaticSettings"]


@dataclass(frozen=True)
class StaticSettings:
    """Settings of ``neural_compressor_static``.

    Attributes:
        method: how the range of each activation is read from the calibration inputs: ``minmax``,
            or ``kl`` (from a histogram).
        per_channel: one scale per output channel of a weight rather than one per tensor.
        rows: at most so many calibration rows are used.
        exclude: names of weight tensors whose layers stay in float.
    """

    method: Literal["minmax", "kl"] = "minmax"
    per_channel: bool = True
    rows: int = 128
    exclude: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_choices("neural_compressor_static", self)
        at_least("neural_compressor_static.rows", self.rows, 1)


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
