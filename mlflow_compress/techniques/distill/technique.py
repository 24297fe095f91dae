"""``distill``: let a smaller model learn from its source; no labels needed."""

from typing import TYPE_CHECKING, Any, ClassVar

from mlflow_compress.techniques.base import Context, Phase, Result, Technique

if TYPE_CHECKING:
    import onnx
from mlflow_compress.techniques.distill.settings import DistillSettings

__all__ = ["TECHNIQUE", "Distill"]


class Distill(Technique[DistillSettings]):
    """Trains all weights to give the source's outputs; what is zero stays zero.

    Worth a step of its own after techniques that do not train themselves, such as a rewriting of
    the graph; the others fine-tune by the same loss.
    """

    name = "distill"
    settings = DistillSettings
    phase = Phase.PRUNE
    space: ClassVar[dict[str, Any]] = {
        "learning_rate": {"low": 1e-4, "high": 1e-2, "log": True},
        "temperature": {"choices": [1.0, 2.0, 4.0]},
    }

    def needs_training(self, settings: DistillSettings) -> bool:
        """Distillation is training."""
        return True

    def apply(
        self, model: "onnx.ModelProto", settings: DistillSettings, context: Context
    ) -> Result:
        """See :func:`mlflow_compress.techniques.distill.torch.distill`."""
        from mlflow_compress.techniques.distill.torch import distill

        return distill(model, settings, context)


TECHNIQUE = Distill()
