"""From an ONNX model through PyTorch training and back: what all trained techniques share."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from onnx import ModelProto

from mlflow_compress.errors import TechniqueError
from mlflow_compress.techniques.base import Context, plain_settings
from mlflow_compress.techniques.data import Epoch, TrainData, Training
from mlflow_compress.techniques.training.constraints import GradualPruning, keep_zeros
from mlflow_compress.techniques.training.interpreter import Interpreter, check_interpreter
from mlflow_compress.techniques.training.loop import Constraint, check_inputs, fit

__all__ = ["Lesson", "zeros_kept"]

_CHECKED = 4
"""Rows on which PyTorch is compared with onnxruntime before training."""


@dataclass
class Lesson:
    """A student, its teacher and its data, ready to be trained; what is made of one ONNX model.

    Attributes:
        technique: its name.
        settings: its settings, which say how it trains.
        context: what the technique may use.
        student: the model that is trained.
        teacher: the source of the recipe.
    """

    technique: str
    settings: Training
    context: Context
    student: Interpreter
    teacher: Interpreter

    @classmethod
    def of(
        cls, technique: str, model: ModelProto, settings: Training, context: Context
    ) -> "Lesson":
        """Prepare to train a model.

        Raises:
            TechniqueError: the model has nothing to train, or an operator that cannot be trained
                through, or PyTorch computes something else than onnxruntime.
        """
        student = Interpreter(model)
        if not student.trained():
            raise TechniqueError("there is nothing to train: the model has no float32 weights")
        rows = _data(context).head(_CHECKED)
        check_inputs(student.inputs, rows)
        check_interpreter(student, model, {name: rows[name] for name in student.inputs})
        source = model if context.source is None else context.source
        return cls(technique, settings, context, student, Interpreter(source))

    def teach(self, constraint: Constraint | None = None, part: str = "") -> list[Epoch]:
        """Train the student under a constraint; an interrupted training goes on where it was.

        Args:
            constraint: shapes the weights.
            part: tells several trainings of one step apart.
        """
        return fit(
            self.student,
            self.teacher,
            _data(self.context),
            self.settings,
            constraint,
            technique=self.technique,
            seed=self.context.seed,
            watch=self.context.on_epoch,
            checkpoint=self._checkpoint(part),
        )

    def weights(self, names: "list[str]") -> list[str]:
        """Return those of the names that the student learns."""
        trained = self.student.trained()
        return [name for name in names if name in trained]

    def _checkpoint(self, part: str) -> Path | None:
        folder = self.context.checkpoints
        if folder is None:
            return None
        sha = hashlib.sha256(repr((part, torch.__version__, self.context.seed)).encode())
        sha.update(self.student.write_back().SerializeToString(deterministic=True))
        sha.update(self.teacher.write_back().SerializeToString(deterministic=True))
        sha.update(_data(self.context).digest.encode())
        sha.update(f"{self.technique} {plain_settings(self.settings)}".encode())
        return folder / f"{sha.hexdigest()[:32]}.pt"


def zeros_kept(lesson: Lesson, names: list[str]) -> GradualPruning:
    """Return the constraint that zeros stay zeros in these weights."""
    return GradualPruning(keep_zeros(lesson.student, names), lesson.student)


def _data(context: Context) -> TrainData:
    if context.train is None:
        raise TechniqueError("needs training data, and there are none (data.train)")
    return context.train


def summary(epochs: list[Epoch]) -> tuple[Any, ...]:
    """Say in one sentence what a training came to."""
    if not epochs:
        return ()
    best = min(epochs, key=lambda epoch: epoch.validation_loss)
    text = f"trained for {len(epochs)} epochs, validation loss {best.validation_loss:.4g}"
    if best.score is not None:
        text += f", {100 * best.score:.2f} % right on the rows held out"
    return (text,)
