"""Distillation of the source into a model whose convolutions were rewritten."""

from dataclasses import replace

from onnx import ModelProto

from mlflow_compress.techniques.base import Context, Result
from mlflow_compress.techniques.separable.settings import SeparableSettings
from mlflow_compress.techniques.training.lesson import Lesson, summary

__all__ = ["taught"]


def taught(
    model: ModelProto, made: Result, settings: SeparableSettings, context: Context
) -> Result:
    """Train all weights of the rewritten model by what the source gives.

    Args:
        model: the model that was rewritten; teaches when the context has no source.
        made: the rewritten model, its weights the low-rank start.
        settings: how to train.
        context: the training rows.

    Raises:
        TechniqueError: the model cannot be trained.
    """
    context = replace(context, source=context.source or model)
    lesson = Lesson.of("separable", made.model, settings, context)
    epochs = lesson.teach()
    return replace(made, model=lesson.student.write_back(), notes=(*made.notes, *summary(epochs)))
