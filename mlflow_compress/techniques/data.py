"""Training data as techniques see them, and the settings that every kind of training shares."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np

from mlflow_compress.base.bounds import BATCH, EPOCHS
from mlflow_compress.base.settings import at_least, between
from mlflow_compress.errors import DataError

__all__ = ["Batch", "Epoch", "TrainData", "Training"]

Inputs = Mapping[str, np.ndarray]
Batch = tuple[Inputs, np.ndarray | None]
"""Inputs by name, and labels or None."""

_MOST_VALIDATION = 5000


@dataclass(frozen=True)
class TrainData:
    """Rows to train on: arrays, or a function that makes batches.

    Attributes:
        inputs: arrays of [rows, ...] by input name; a few rows of them when ``loader`` is given.
        labels: class numbers of [rows], or None; training then learns from the source alone.
        digest: sha256 of what is trained on, for keys.
        share: share of the rows, chosen at random, that is kept for validation (5,000 at the
            most).
        augment: changes a batch's inputs before each step, with a random generator.
        loader: makes the batches of one epoch; in place of ``inputs`` and ``labels``.
        validation: the batches to validate on, with ``loader``.
    """

    inputs: Inputs
    labels: np.ndarray | None = None
    digest: str = ""
    share: float = 0.1
    augment: Callable[[Inputs, np.random.Generator], Inputs] | None = None
    loader: Callable[[], Iterable[Batch]] | None = field(default=None, compare=False)
    validation: Callable[[], Iterable[Batch]] | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        """Check that there is something to train and to validate on.

        Raises:
            DataError: fewer than two rows, or labels that are not one class number (from 0) per
                row.
        """
        if self.loader is None and self.rows < 2:
            raise DataError("data.train: training needs at least two rows")
        labels = self.labels
        if labels is not None and (labels.ndim != 1 or labels.dtype.kind not in "iu"):
            raise DataError(
                f"data.train: labels must be one class number per row, got {labels.dtype} of "
                f"{list(labels.shape)}; leave them out to learn from the source alone"
            )
        if labels is not None and (labels < 0).any():
            raise DataError(f"data.train: labels must be class numbers from 0, got {labels.min()}")

    @property
    def rows(self) -> int:
        """How many rows there are in the arrays."""
        return len(next(iter(self.inputs.values())))

    def split(self, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the rows to train on and those to validate on, without overlap."""
        order = np.random.default_rng([seed, 1]).permutation(self.rows)
        held = min(max(1, round(self.share * self.rows)), _MOST_VALIDATION)
        return np.sort(order[held:]), np.sort(order[:held])

    def head(self, rows: int) -> Inputs:
        """Return the inputs of the first rows."""
        return {name: array[:rows] for name, array in self.inputs.items()}

    def epoch(
        self, rows: np.ndarray, size: int, rng: np.random.Generator
    ) -> Iterator[tuple[np.ndarray | None, Batch]]:
        """Yield the batches of one epoch in random order, with the rows that they are made of.

        The rows are None where a batch has no fixed rows (a loader, or augmented inputs). A rest
        that fills no batch is left out, unless it is all there is.
        """
        if self.loader is not None:
            yield from ((None, batch) for batch in self.loader())
            return
        order = rng.permutation(rows)
        size = min(size, len(order))
        for begin in range(0, len(order) - size + 1, size):
            chosen = order[begin : begin + size]
            inputs: Inputs = {name: array[chosen] for name, array in self.inputs.items()}
            labels = None if self.labels is None else self.labels[chosen]
            if self.augment is not None:
                yield None, (self.augment(inputs, rng), labels)
            else:
                yield chosen, (inputs, labels)

    def held_out(self, rows: np.ndarray, size: int = 1000) -> Iterator[Batch]:
        """Yield the batches to validate on, always the same."""
        if self.loader is not None:
            yield from (self.validation or self.loader)()
            return
        for begin in range(0, len(rows), size):
            chosen = rows[begin : begin + size]
            labels = None if self.labels is None else self.labels[chosen]
            yield {name: array[chosen] for name, array in self.inputs.items()}, labels


@dataclass(frozen=True)
class Epoch:
    """What one epoch of training came to.

    Attributes:
        technique: whose training it is.
        epoch: its number, from 1.
        epochs: how many are planned.
        loss: mean loss of the epoch's batches.
        validation_loss: mean loss on the rows held out.
        score: share of the held-out rows on which the largest output is right (with labels) or
            the source's; None for models without classes.
        bits: entropy of the weights in bits per weight, where the technique aims at one.
    """

    technique: str
    epoch: int
    epochs: int
    loss: float
    validation_loss: float
    score: float | None = None
    bits: float | None = None


@dataclass(frozen=True)
class Training:
    """How a technique trains when there are training data; settings inherit these.

    Attributes:
        epochs: how many times to go through the training data; 0 turns training off.
        learning_rate: Adam's, at the start; it falls to 2 % of it along a cosine.
        batch: rows per step.
        temperature: softens the source's outputs before they are learned (Hinton et al., 2015).
        label_share: share of the loss that comes from labels, where there are some; the rest is
            the KL divergence to the source.
        patience: stop after so many epochs without a better validation loss; 0 never does.
    """

    epochs: int = field(default=10, kw_only=True)
    learning_rate: float = field(default=1e-3, kw_only=True)
    batch: int = field(default=128, kw_only=True)
    temperature: float = field(default=4.0, kw_only=True)
    label_share: float = field(default=0.3, kw_only=True)
    patience: int = field(default=0, kw_only=True)

    def check_training(self, technique: str) -> None:
        """Raise ConfigError on values that are not allowed."""
        between(f"{technique}.epochs", self.epochs, 0, EPOCHS.most)
        between(f"{technique}.learning_rate", self.learning_rate, 1e-8, 1)
        between(f"{technique}.batch", self.batch, 1, BATCH.most)
        between(f"{technique}.temperature", self.temperature, 0.1, 100)
        between(f"{technique}.label_share", self.label_share, 0, 1)
        at_least(f"{technique}.patience", self.patience, 0)
