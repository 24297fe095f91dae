"""``quantize``: 8-bit weights and activations, the variant that is also fast."""

from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

from mlflow_compress.techniques.base import (
    Context,
    Phase,
    Result,
    Technique,
)

if TYPE_CHECKING:
    import onnx
from mlflow_compress.techniques.quantize.settings import QuantizeSettings

__all__ = ["TECHNIQUE", "Quantize"]


class Quantize(Technique[QuantizeSettings]):
    """Static int8 in QDQ form, by onnxruntime; weights symmetric, so pruned zeros stay zeros."""

    name = "quantize"
    settings = QuantizeSettings
    phase = Phase.QUANTIZE
    space: ClassVar[dict[str, Any]] = {
        "method": {"choices": ["minmax", "percentile", "entropy"]},
        "per_channel": {"choices": [True, False]},
        "keep_float": {"choices": [0, 1, 2]},
        "equalize": {"choices": [True, False]},
        "correct_bias": {"choices": [True, False]},
    }

    def needs_calibration(self, settings: QuantizeSettings) -> bool:
        """Activation ranges come from calibration inputs."""
        return True

    def apply(
        self, model: "onnx.ModelProto", settings: QuantizeSettings, context: Context
    ) -> Result:
        """See :func:`mlflow_compress.techniques.quantize.onnx.quantize`."""
        from mlflow_compress.techniques.quantize.onnx import prepare, quantize

        if context.train is None or not settings.epochs:
            return quantize(model, settings, context)
        from mlflow_compress.techniques.quantize.torch import trained_quantize

        model, settings, notes = prepare(model, settings, context)
        made = trained_quantize(model, settings, context)
        return replace(made, notes=(*notes, *made.notes))


TECHNIQUE = Quantize()
