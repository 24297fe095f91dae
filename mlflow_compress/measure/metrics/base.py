"""What a metric is: scores of one model's outputs on rows, which can be resampled."""

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np

from mlflow_compress.errors import DataError
from mlflow_compress.measure.data import LABELS

__all__ = [
    "Arrays",
    "Metric",
    "MetricFamily",
    "Rows",
    "Scores",
    "by_row",
    "for_set",
]

Arrays = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Rows:
    """What a metric is given.

    Attributes:
        outputs: the outputs that the metric reads, by name, of [rows, ...]. In a row that
            ``failed`` every float is NaN.
        labels: labels by name, of [rows, ...]; the array ``labels`` of the data is under that
            name, ``labels.boxes`` under ``boxes``.
        inputs: the inputs by name, of [rows, ...].
        failed: [rows], whether the model gave NaN or infinity where its source gives a number.
        worst: the value of a set that fails as a whole, by the metric's direction and unit.
        reference: the source's outputs of the same names, None when there is no source: what is
            told from the values of an output, such as whether they are probabilities, is told from
            these, so that variant and source are read alike.
    """

    outputs: Arrays
    labels: Arrays
    inputs: Arrays
    failed: np.ndarray
    worst: float
    reference: Arrays | None = None

    @property
    def count(self) -> int:
        """How many rows there are."""
        return len(self.failed)

    @property
    def name(self) -> str:
        """The name of the only output."""
        (name,) = self.outputs
        return name

    @property
    def output(self) -> np.ndarray:
        """The only output."""
        return self.outputs[self.name]

    @property
    def telling(self) -> np.ndarray:
        """The array from whose values it is told what they are: the source's where there is one."""
        return self.output if self.reference is None else self.reference[self.name]

    @property
    def wanted(self) -> np.ndarray:
        """The labels of the only output: those of its name, else ``labels``, else the only ones.

        Raises:
            DataError: there are none of these.
        """
        for name in (self.name, LABELS):
            if name in self.labels:
                return self.labels[name]
        if len(self.labels) == 1:
            return next(iter(self.labels.values()))
        known = ", ".join(f"{LABELS}.{name}" for name in self.labels) or "none"
        raise DataError(
            f"there are no labels for output {self.name!r}: add an array {LABELS!r} or "
            f"'{LABELS}.{self.name}' (there are: {known})"
        )

    def take(self, rows: np.ndarray) -> "Rows":
        """Return the rows of the given indices."""
        outputs, labels, inputs = (
            # what is the same for every row stays as it is
            {n: a[rows] if len(np.shape(a)) and len(a) == self.count else a for n, a in of.items()}
            for of in (self.outputs, self.labels, self.inputs)
        )
        return Rows(outputs, labels, inputs, self.failed[rows], self.worst, self.reference)


@dataclass(frozen=True)
class Scores:
    """A metric's scores of one model.

    Attributes:
        count: how many rows can be drawn.
        of: takes indices of rows, [n], and returns the metric's value on them; NaN where it is not
            defined on these, such as ROC AUC on rows of one class.
        hits: bool [rows] of a metric that is right or wrong per row, whose value is their mean;
            None for any other.
        cost: how many numbers one call of ``of`` looks at; bounds how often it is called.
        read: the outputs that were looked at, where only the scoring shows it; empty otherwise.
    """

    count: int
    of: Callable[[np.ndarray], float]
    hits: np.ndarray | None = None
    cost: int = 0
    read: tuple[str, ...] = ()

    @property
    def value(self) -> float:
        """The metric's value on all rows."""
        return self.of(np.arange(self.count))


Statistics = Callable[[Rows], np.ndarray]


def _mean(rows: np.ndarray) -> float:
    return float(rows.mean())


def by_row(
    statistics: Statistics, combine: Callable[[np.ndarray], float] = _mean
) -> Callable[[Rows], Scores]:
    """Return how a metric with statistics per row scores.

    Args:
        statistics: returns an array of [rows] or [rows, ...].
        combine: turns the statistics of the rows that were drawn into the metric's value.
    """

    def score(rows: Rows) -> Scores:
        found = np.asarray(statistics(rows))
        hits = found if combine is _mean and found.dtype == bool and found.ndim == 1 else None
        return Scores(len(found), lambda drawn: combine(found[drawn]), hits, found.size)

    return score


def for_set(number: Callable[[Rows], float]) -> Callable[[Rows], Scores]:
    """Return how a metric scores that is one number for the set.

    Args:
        number: takes rows, of which there may be some twice, and returns the metric's value, NaN
            where it is not defined on them.
    """

    def score(rows: Rows) -> Scores:
        size = sum(array.size for array in (*rows.outputs.values(), *rows.labels.values()))
        return Scores(rows.count, lambda drawn: float(number(rows.take(drawn))), cost=size)

    return score


def _all(outputs: Arrays) -> tuple[str, ...]:
    return tuple(outputs)


def _as_they_are(outputs: Arrays) -> Arrays:
    return outputs


@dataclass(frozen=True)
class Metric:
    """How outputs are scored against labels.

    Attributes:
        name: what reports call it.
        score: scores one model's outputs; made by :func:`by_row` or :func:`for_set`.
        reads: picks the names of the outputs that are read; ``score`` is given these alone.
        higher_is_better: False for errors; a drop is positive when the variant is worse.
        unit: see :class:`mlflow_compress.records.Accuracy`; None is ``share`` where the scores are
            right or wrong per row, and a plain number else.
        from_source: makes labels of the outputs read, for ``labels: source``.
        draws: resamples of its interval, at most.
        undefined: why it may have no value, as the end of a sentence.
        needs_modules: what ``score`` imports beyond the base install: by module, what pip
            installs it by.
    """

    name: str
    score: Callable[[Rows], Scores]
    reads: Callable[[Arrays], tuple[str, ...]] = _all
    higher_is_better: bool = True
    unit: str | None = "share"
    from_source: Callable[[Arrays], Arrays] = _as_they_are
    draws: int = 2000
    undefined: str = "it gave NaN"
    needs_modules: Mapping[str, str] = field(default_factory=dict)

    @property
    def worst(self) -> float:
        """The value of a set that fails as a whole."""
        if self.unit == "share":
            return 0.0 if self.higher_is_better else 1.0
        return -math.inf if self.higher_is_better else math.inf


@dataclass(frozen=True)
class MetricFamily:
    """Metrics whose name has a parameter, such as ``top-K``.

    Attributes:
        spelling: how the name is written, for messages: ``top-K``.
        pattern: matches a whole name; its first group is the parameter. The entry point is named
            after what the names begin with.
        make: takes the name and the parameter and returns the metric.
        adopt: takes the text of ``module:object`` and an object that is no function, and returns
            the metric that it is, or None.
    """

    spelling: str
    pattern: str
    make: Callable[[str, str], Metric]
    adopt: Callable[[str, object], Metric | None] = field(default=lambda name, found: None)

    def find(self, name: str) -> Metric | None:
        """Return the metric of this name, None when the name is not of this family."""
        match = re.fullmatch(self.pattern, name)
        return None if match is None else self.make(name, match.group(1))
