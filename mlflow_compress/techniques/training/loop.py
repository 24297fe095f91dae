"""The one training loop: a student is taught by the source while a constraint shapes its weights.

Hinton, Vinyals and Dean, "Distilling the Knowledge in a Neural Network", 2015, for the loss.
"""

import copy
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mlflow_compress.errors import DataError, TechniqueError
from mlflow_compress.techniques.data import Batch, Epoch, TrainData, Training
from mlflow_compress.techniques.training.checkpoints import read_checkpoint, write_checkpoint
from mlflow_compress.techniques.training.interpreter import Interpreter

__all__ = ["Constraint", "check_inputs", "fit", "one_thread"]


_LAST_RATE = 0.02
"""What is left of the learning rate at the end."""

_CACHED = 50_000_000
"""The source's outputs are kept in memory up to so many numbers."""


class Constraint:
    """Shapes the weights while they are trained; does nothing here.

    ``progress`` goes from 0 to 1 over all steps.
    """

    settled_at = 0.0
    """The progress from which on the weights have the form they will end in."""

    def groups(self, student: Interpreter) -> list[dict[str, Any]]:
        """Return Adam's parameter groups.

        ``scale`` multiplies the learning rate, and in its place ``settled``, where a group has
        it, from ``settled_at`` on.
        """
        return [{"params": list(student.parameters()), "scale": 1.0}]

    def before(self, progress: float) -> None:
        """Put the values to compute with into the student."""

    def backward(self) -> None:
        """Change the gradients that were just computed."""

    def after(self) -> None:
        """Bring the values back into form after a step."""

    def bits(self) -> float | None:
        """Return the entropy in bits per weight, where it is aimed at."""
        return None

    def state(self) -> Mapping[str, Any]:
        """Return everything that a checkpoint needs besides the student's values."""
        return {}

    def load(self, state: Mapping[str, Any]) -> None:
        """Take the state of a checkpoint."""


@contextmanager
def one_thread() -> Iterator[None]:
    """Run PyTorch on one thread: small models gain nothing from more, and results stay the same."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def fit(  # noqa: PLR0913 - two models, rows, how to train
    student: Interpreter,
    teacher: nn.Module,
    data: TrainData,
    training: Training,
    constraint: Constraint | None = None,
    *,
    technique: str,
    seed: int = 0,
    watch: Callable[[Epoch], None] | None = None,
    checkpoint: Path | None = None,
) -> list[Epoch]:
    """Train the student in place; it ends with the best values on the rows held out.

    Args:
        student: the model that is compressed.
        teacher: the source; takes the same inputs.
        data: what to train on.
        training: how.
        constraint: shapes the weights on the way.
        technique: its name, for messages and records.
        seed: seeds the order of the rows.
        watch: hears of every epoch.
        checkpoint: a file that is written after every epoch and read at the start, so that a
            training that was killed goes on where it was; removed at the end.

    Raises:
        DataError: the data do not fit the model.
        TechniqueError: the loss is no longer a number.
    """
    with one_thread():
        run = _Run(student, teacher, data, training, constraint or Constraint(), technique, seed)
        if checkpoint is not None and checkpoint.exists():
            run.load(checkpoint)
        while not run.is_over:
            epoch = run.epoch()
            if watch is not None:
                watch(epoch)
            if checkpoint is not None:
                run.save(checkpoint)
        run.finish()
    if checkpoint is not None:
        with suppress(OSError):
            checkpoint.unlink(missing_ok=True)
    return run.history


class _Run:
    """One training, epoch by epoch."""

    def __init__(
        self,
        student: Interpreter,
        teacher: nn.Module,
        data: TrainData,
        training: Training,
        constraint: Constraint,
        technique: str,
        seed: int,
    ) -> None:
        self.student, self.data, self.training = student, data, training
        self.constraint, self.technique, self.seed = constraint, technique, seed
        self.history: list[Epoch] = []
        self.best: tuple[float, int, Any] | None = None
        self.rows, self.held = data.split(seed)
        for module in (student, teacher):  # convolutions on a CPU are twice as fast that way
            module.to(memory_format=torch.channels_last)
        self.teacher = _Teacher(teacher, student.inputs, data)
        groups = constraint.groups(student)
        self.optimizer = torch.optim.Adam(groups, lr=training.learning_rate)
        logits = self._first_logits()
        self.has_classes = _has_classes(logits)
        _check_labels(logits, data.labels)

    @property
    def is_over(self) -> bool:
        done, patience = len(self.history), self.training.patience
        if done >= self.training.epochs:
            return True
        return bool(patience and self.best and done - self.best[1] >= patience)

    def epoch(self) -> Epoch:
        number, epochs = len(self.history), self.training.epochs
        rng = np.random.default_rng([self.seed, 2, number])
        steps = max(1, len(self.rows) // min(self.training.batch, len(self.rows)))
        total, count, progress = 0.0, 0, 0.0
        self.student.train()
        for index, (rows, batch) in enumerate(self.data.epoch(self.rows, self.training.batch, rng)):
            progress = min(1.0, (number + min(1.0, index / steps)) / epochs)
            total += self._step(rows, batch, progress)
            count += 1
        if not count:
            raise DataError("data.train: the loader gave no batches")
        loss, score = self._validate((number + 1) / epochs)
        made = Epoch(
            self.technique, number + 1, epochs, total / count, loss, score, self.constraint.bits()
        )
        if not math.isfinite(made.loss + made.validation_loss):
            raise TechniqueError(
                f"training came to a loss of {made.loss} in epoch {made.epoch}: "
                f"a smaller learning_rate than {self.training.learning_rate:g} may help"
            )
        self.history.append(made)
        settled = (number + 1) / epochs >= self.constraint.settled_at
        if settled and (self.best is None or loss < self.best[0]):
            self.best = loss, number + 1, self._values()
        return made

    def finish(self) -> None:
        if self.best is not None:
            self._set_values(self.best[2])
        self.constraint.before(1.0)
        self.student.eval()

    def save(self, path: Path) -> None:
        state = {
            "values": self._values(),
            "optimizer": self.optimizer.state_dict(),
            "history": self.history,
            "best": self.best,
        }
        write_checkpoint(state, path)

    def load(self, path: Path) -> None:
        """Go on from a checkpoint; one that is damaged is as good as none."""
        state = read_checkpoint(path, Epoch)
        if state is None:
            return
        self._set_values(state["values"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.history, self.best = state["history"], state["best"]

    def _step(self, rows: np.ndarray | None, batch: Batch, progress: float) -> float:
        rate = _LAST_RATE + (1 - _LAST_RATE) * (1 + math.cos(math.pi * progress)) / 2
        settled = progress >= self.constraint.settled_at
        for group in self.optimizer.param_groups:
            scale = group.get("settled", group["scale"]) if settled else group["scale"]
            group["lr"] = self.training.learning_rate * rate * scale
        self.constraint.before(progress)
        loss = self._loss(rows, batch)
        self.optimizer.zero_grad()
        self.student.zero_grad()
        loss.backward()
        self.constraint.backward()
        self.optimizer.step()
        self.constraint.after()
        return loss.item()

    def _loss(self, rows: np.ndarray | None, batch: Batch) -> Tensor:
        inputs, labels = batch
        made = self.student(*_tensors(self.student.inputs, inputs))
        taught = self._taught(rows, batch)
        return _loss(made, taught, _labels(labels), self.training)

    @torch.no_grad()
    def _validate(self, progress: float) -> tuple[float, float | None]:
        self.constraint.before(progress)
        self.student.eval()
        total, right, count = 0.0, 0, 0
        for inputs, labels in self.data.held_out(self.held):
            made = self.student(*_tensors(self.student.inputs, inputs))
            taught = self._taught(None, (inputs, labels))
            size = len(made[0])
            total += size * _loss(made, taught, _labels(labels), self.training).item()
            if _has_classes(made[0]):
                wanted = taught[0].argmax(1) if labels is None else _labels(labels)
                right += int((made[0].argmax(1) == wanted).sum())
            count += size
        return total / count, right / count if _has_classes(made[0]) else None

    def _taught(self, rows: np.ndarray | None, batch: Batch) -> Any:
        """The source's outputs; none, and no time spent, where only labels count."""
        inputs, labels = batch
        if labels is not None and self.training.label_share == 1 and self.has_classes:
            return ()
        return self.teacher(rows, inputs)

    def _first_logits(self) -> Tensor:
        with torch.no_grad():
            made: Tensor = self.teacher(None, self.data.head(2))[0]
        return made

    def _values(self) -> Any:
        return copy.deepcopy((self.student.state_dict(), dict(self.constraint.state())))

    def _set_values(self, values: Any) -> None:
        self.student.load_state_dict(values[0])
        self.constraint.load(copy.deepcopy(values[1]))


class _Teacher:
    """The source's outputs, computed once where the rows stay the same."""

    def __init__(self, module: nn.Module, names: Sequence[str], data: TrainData) -> None:
        self.module, self.names, self.cached = module.eval(), names, None
        if data.loader is None and data.augment is None:
            first = self(None, data.head(2))
            if sum(out[0].numel() for out in first) * data.rows <= _CACHED:
                parts = [
                    self(None, {n: a[i : i + 1000] for n, a in data.inputs.items()})
                    for i in range(0, data.rows, 1000)
                ]
                self.cached = [torch.cat(part) for part in zip(*parts, strict=True)]

    def __call__(self, rows: np.ndarray | None, inputs: Mapping[str, np.ndarray]) -> Any:
        if rows is not None and self.cached is not None:
            index = torch.from_numpy(rows)
            return tuple(out[index] for out in self.cached)
        with torch.no_grad():
            return tuple(out.detach() for out in self.module(*_tensors(self.names, inputs)))


def _loss(
    made: Sequence[Tensor], taught: Sequence[Tensor], labels: Tensor | None, training: Training
) -> Tensor:
    """Cross entropy with labels and KL divergence to the source; squared error without classes."""
    total = torch.zeros(())
    for out, target in zip(made, taught, strict=len(taught) > 0):
        if out.is_floating_point() and not _has_classes(out):
            total = total + F.mse_loss(out, target) / target.square().mean().clamp_min(1e-12)
        elif out.is_floating_point():
            heat = training.temperature
            # T² keeps the gradients' size whatever the temperature
            total = total + heat**2 * F.kl_div(
                _log_shares(out, heat), _log_shares(target, heat),
                log_target=True, reduction="batchmean",
            )  # fmt: skip
    if labels is None or not training.label_share or not _has_classes(made[0]):
        return total
    share = training.label_share
    return (1 - share) * total + share * F.nll_loss(_log_shares(made[0], 1.0), labels)


def _log_shares(out: Tensor, heat: float) -> Tensor:
    """Log probabilities of logits, or of outputs that are probabilities already."""
    values = out.detach()
    if values.min() >= 0 and torch.allclose(values.sum(1), torch.ones(len(values)), atol=1e-3):
        out = out.clamp_min(1e-12).log()
    return F.log_softmax(out / heat, 1)


def _has_classes(out: Tensor) -> bool:
    return out.is_floating_point() and out.dim() == 2 and out.shape[1] > 1


def _check_labels(logits: Tensor, labels: np.ndarray | None) -> None:
    if labels is None or not _has_classes(logits):
        return
    if labels.min() < 0 or labels.max() >= logits.shape[1]:
        raise DataError(
            f"data.train: labels go from {labels.min()} to {labels.max()}, and the model has "
            f"{logits.shape[1]} outputs"
        )


def _labels(labels: np.ndarray | None) -> Tensor | None:
    return None if labels is None else torch.from_numpy(np.asarray(labels).astype(np.int64))


def check_inputs(names: Sequence[str], inputs: Mapping[str, np.ndarray]) -> None:
    """Raise DataError when an input of the model is not among the data's."""
    missing = [name for name in names if name not in inputs]
    if missing:
        raise DataError(
            f"data.train: the model's input {missing[0]!r} is missing; there are "
            f"{', '.join(inputs)}"
        )


def _tensors(names: Sequence[str], inputs: Mapping[str, np.ndarray]) -> list[Tensor]:
    check_inputs(names, inputs)
    return [torch.from_numpy(np.ascontiguousarray(inputs[name])) for name in names]
