"""Weight sharing whose values are trained (Han et al., "Deep Compression", 2016, section 3.3)."""

from onnx import ModelProto

from mlflow_compress.techniques.base import Context, Result
from mlflow_compress.techniques.graph.walk import float_weights
from mlflow_compress.techniques.share.onnx import bias_tensors, embedding_tensors, share
from mlflow_compress.techniques.share.settings import ShareSettings
from mlflow_compress.techniques.training.constraints import SharedValues
from mlflow_compress.techniques.training.lesson import Lesson, summary

__all__ = ["coded", "trained_share"]


def trained_share(model: ModelProto, settings: ShareSettings, context: Context) -> Result:
    """Cluster as on ONNX, then train the values; which weight has which value stays.

    Raises:
        ConfigError: ``exclude`` names a tensor that is not shared anyway.
        TechniqueError: there is nothing to share, or the model cannot be trained.
    """
    shared = share(model, settings).model
    lesson = Lesson.of("share", shared, settings, context)
    names = lesson.weights(coded(shared, settings.exclude, settings.biases))
    epochs = lesson.teach(SharedValues(lesson.student, names))
    return Result(lesson.student.write_back(), notes=summary(epochs))


def coded(model: ModelProto, exclude: tuple[str, ...], biases: bool) -> list[str]:
    """Return the tensors that share values: weights, embeddings, and biases of some size."""
    names = [weight.name for weight in float_weights(model)]
    names += [tensor.name for tensor in embedding_tensors(model)]
    if biases:
        names += [tensor.name for tensor in bias_tensors(model)]
    return [name for name in dict.fromkeys(names) if name not in exclude]
