"""Entropy-constrained weight sharing that is trained; see :mod:`~.torch_rate`."""

from onnx import ModelProto

from mlflow_compress.techniques.base import Context, Result
from mlflow_compress.techniques.entropy_share.settings import EntropyShareSettings
from mlflow_compress.techniques.share.torch import coded
from mlflow_compress.techniques.training.lesson import Lesson, summary
from mlflow_compress.techniques.training.rate import RateConstraint

__all__ = ["entropy_share"]


def entropy_share(model: ModelProto, settings: EntropyShareSettings, context: Context) -> Result:
    """Train under a rate term until the weights spend ``bits`` each.

    Raises:
        ConfigError: ``exclude`` names a tensor that is not shared anyway.
        TechniqueError: there is nothing to share, or the model cannot be trained.
    """
    lesson = Lesson.of("entropy_share", model, settings, context)
    names = lesson.weights(coded(model, settings.exclude, settings.biases))
    constraint = RateConstraint(
        lesson.student,
        names,
        settings.bits,
        values=settings.values,
        batch=settings.batch,
    )
    epochs = lesson.teach(constraint)
    return Result(lesson.student.write_back(), notes=summary(epochs))
