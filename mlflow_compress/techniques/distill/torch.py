"""Knowledge distillation (Hinton, Vinyals and Dean, 2015) of the source into the model so far."""

from onnx import ModelProto

from mlflow_compress.techniques.base import Context, Result
from mlflow_compress.techniques.distill.settings import DistillSettings
from mlflow_compress.techniques.graph.walk import float_weights
from mlflow_compress.techniques.training.lesson import Lesson, summary, zeros_kept

__all__ = ["distill"]


def distill(model: ModelProto, settings: DistillSettings, context: Context) -> Result:
    """Train all float weights; zeros among them stay zeros.

    Raises:
        TechniqueError: there are no training data, or the model cannot be trained.
    """
    lesson = Lesson.of("distill", model, settings, context)
    names = lesson.weights([weight.name for weight in float_weights(model)])
    epochs = lesson.teach(zeros_kept(lesson, names))
    return Result(lesson.student.write_back(), notes=summary(epochs))
