"""``separable``: replace convolutions by a depthwise and a pointwise one, where that pays."""

from typing import TYPE_CHECKING, Any, ClassVar

from mlflow_compress.techniques.base import Context, Phase, Result, Technique

if TYPE_CHECKING:
    import onnx
from mlflow_compress.techniques.separable.settings import SeparableSettings

__all__ = ["TECHNIQUE", "Separable"]


class Separable(Technique[SeparableSettings]):
    """Rewrites regular and grouped convolutions that get smaller by it and stay close enough."""

    name = "separable"
    settings = SeparableSettings
    phase = Phase.STRUCTURE
    space: ClassVar[dict[str, Any]] = {
        "rank": {"choices": [1, 2, 4]},
        "max_error": {"choices": [0.05, 0.2, 0.5]},
    }

    def needs_calibration(self, settings: SeparableSettings) -> bool:
        """Only the repair looks at activations."""
        return settings.repair

    def apply(
        self, model: "onnx.ModelProto", settings: SeparableSettings, context: Context
    ) -> Result:
        """See :func:`mlflow_compress.techniques.separable.onnx.separable`."""
        from mlflow_compress.techniques.separable.onnx import separable

        made = separable(model, settings, context)
        if context.train is None or not settings.epochs or not made.origin:
            return made
        from mlflow_compress.techniques.separable.torch import taught

        return taught(model, made, settings, context)


TECHNIQUE = Separable()
