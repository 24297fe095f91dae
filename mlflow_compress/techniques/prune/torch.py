"""Pruning while the rest of the network learns on.

Han et al., "Learning both Weights and Connections for Efficient Neural Networks", 2015; Zhu and
Gupta, "To prune, or not to prune", 2017, for the schedule; Renda, Frankle and Carbin, "Comparing
Rewinding and Fine-tuning in Neural Network Pruning", 2020, for rewinding.
"""

import torch
from onnx import ModelProto

from mlflow_compress.errors import TechniqueError
from mlflow_compress.techniques.base import Context, Result
from mlflow_compress.techniques.prune.onnx import prunable
from mlflow_compress.techniques.prune.settings import PruneSettings
from mlflow_compress.techniques.training.constraints import GradualPruning, keep_zeros
from mlflow_compress.techniques.training.lesson import Lesson, summary, zeros_kept

__all__ = ["prune"]


def prune(model: ModelProto, settings: PruneSettings, context: Context) -> Result:
    """Prune in small steps while training, then train on with the masks kept.

    Raises:
        ConfigError: ``exclude`` names a tensor that is no weight of this model.
        TechniqueError: there is nothing to prune, or the model cannot be trained.
    """
    lesson = Lesson.of("prune", model, settings, context)
    names = lesson.weights([weight.name for weight in prunable(model, settings.exclude)])
    if not names:
        raise TechniqueError("there is nothing to prune that can be trained")
    if settings.method == "wanda":
        raise TechniqueError("method 'wanda' does not train: use magnitude or obs, or epochs: 0")
    method = "magnitude" if settings.method == "auto" else settings.method
    start = {name: value.detach().clone() for name, value in lesson.student.trained().items()}
    constraint = GradualPruning(
        keep_zeros(lesson.student, names),
        lesson.student,
        settings.sparsity,
        scope=settings.scope,
        method=method,
    )
    epochs = lesson.teach(constraint)
    if settings.rewind:
        masks = {name: (lesson.student.trained()[name] != 0).float() for name in names}
        with torch.no_grad():
            for name, value in lesson.student.trained().items():
                value.copy_(start[name] * masks.get(name, torch.ones(())))
        epochs = lesson.teach(zeros_kept(lesson, names), "rewound")
    return Result(lesson.student.write_back(), notes=summary(epochs))
