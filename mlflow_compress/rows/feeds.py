"""From rows to feeds: which rows go into a call of a model, and what the call is given."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from mlflow_compress.records import Layout
from mlflow_compress.rows.ragged import Array, Ragged

__all__ = ["Call", "Rows"]


@dataclass(frozen=True)
class Call:
    """One call of a model.

    Attributes:
        rows: numbers of the rows that it runs, in order.
        feed: what the model is given, by input name. Where its batch is fixed and the rows do not
            fill it, the last row is repeated.
    """

    rows: np.ndarray
    feed: dict[str, np.ndarray] = field(repr=False)


class Rows(Mapping[str, Any]):
    """A model's inputs, row by row, with how the model takes them.

    As a mapping it gives each input as it is kept: an array of [rows, ...] or a ``Ragged``,
    whatever the model's axis of rows is; or, for inputs that are the same for every row, the array
    that the model is given. :meth:`calls` and :meth:`feed` give inputs as the model takes them.
    """

    def __init__(
        self,
        inputs: Mapping[str, Array],
        shared: Mapping[str, np.ndarray] | None = None,
        layout: Layout | None = None,
    ) -> None:
        """Remember the inputs.

        Args:
            inputs: rows by input name; all have as many rows.
            shared: what is the same for every row, by input name. Where the model has an axis of
                rows, it has one row along it, which is repeated.
            layout: how the model takes them; row by row along axis 0 when None.
        """
        self.inputs = dict(inputs)
        self.shared = dict(shared or {})
        self.layout = layout or Layout()

    def __getitem__(self, name: str) -> Any:
        """Return an input as it is kept."""
        return self.inputs[name] if name in self.inputs else self.shared[name]

    def __iter__(self) -> Iterator[str]:
        """Iterate over the inputs' names."""
        yield from self.inputs
        yield from self.shared

    def __len__(self) -> int:
        """Return the number of inputs, not of rows."""
        return len(self.inputs) + len(self.shared)

    @property
    def count(self) -> int:
        """How many rows there are; one where no input differs from row to row."""
        return next((len(array) for array in self.inputs.values()), 1)

    def take(self, rows: "np.ndarray | Sequence[int]") -> "Rows":
        """Return the rows of the given numbers, in their order."""
        rows = np.asarray(rows)
        return Rows({n: a[rows] for n, a in self.inputs.items()}, self.shared, self.layout)

    def only(self, names: Sequence[str]) -> "Rows":
        """Return the inputs of these names, in their order."""
        return Rows(
            {name: self.inputs[name] for name in names if name in self.inputs},
            {name: self.shared[name] for name in names if name in self.shared},
            self.layout,
        )

    def calls(self, size: int, *, limit: int | None = None, fill: bool = False) -> Iterator[Call]:
        """Yield calls that run the rows in order; rows of different shapes go into different ones.

        Args:
            size: rows per call at most, where the model does not fix them (:meth:`per_call`).
            limit: run only the first so many rows.
            fill: fill up the last call of a fixed batch; otherwise rows that fill no call are
                left out, unless there are no others.
        """
        fixed = self.batch
        total = self.count if limit is None else min(self.count, limit)
        for rows in self._groups(total, self.per_call(size)):
            short = fixed is not None and len(rows) < fixed
            if short and not fill and total >= (fixed or 0) and not self.is_ragged:
                continue
            yield Call(rows, self.feed(rows))

    def _groups(self, total: int, size: int) -> list[np.ndarray]:
        """Return the rows of each call; those of one call have the same shapes."""
        if not self.is_ragged:
            return [np.arange(b, min(b + size, total)) for b in range(0, total, size)]
        ragged = [array.shapes for array in self.inputs.values() if isinstance(array, Ragged)]
        alike: dict[tuple[tuple[int, ...], ...], list[int]] = {}
        for row in range(total):
            alike.setdefault(tuple(shapes[row] for shapes in ragged), []).append(row)
        parts = [
            np.array(rows[begin : begin + size])
            for rows in alike.values()
            for begin in range(0, len(rows), size)
        ]
        return sorted(parts, key=lambda rows: int(rows[0]))

    @property
    def is_ragged(self) -> bool:
        """Whether rows of an input differ in shape."""
        return any(isinstance(array, Ragged) for array in self.inputs.values())

    @property
    def takes_one_row(self) -> bool:
        """Whether an input that differs from row to row has no axis of rows in the model."""
        each = (*self.inputs, *self.layout.states)
        return any(self.layout.of(name).axis is None for name in each)

    @property
    def batch(self) -> int | None:
        """Rows per call where there is no choice; None for any number."""
        return 1 if self.takes_one_row else self.layout.batch

    def per_call(self, wanted: int) -> int:
        """Return how many rows a call has, as many as are wanted where they have room."""
        return self.batch or min(wanted, self.layout.most or wanted)

    def feed(
        self, rows: np.ndarray, states: Mapping[str, np.ndarray] | None = None
    ) -> dict[str, np.ndarray]:
        """Return what one call is given.

        Args:
            rows: numbers of the rows, of equal shapes; filled up where the model fixes the batch.
            states: values of [rows, ...] in place of those that are kept, by input name.
        """
        rows = np.asarray(rows)
        states = dict(states or {})
        fixed = self.batch
        missing = max(0, (fixed or 0) - len(rows))
        if missing:
            states = {n: np.concatenate([a, a[-1:].repeat(missing, 0)]) for n, a in states.items()}
            rows = np.concatenate([rows, rows[-1:].repeat(missing)])
        feed = {}
        for name, array in self.inputs.items():
            picked = states.pop(name) if name in states else _picked(array, rows)
            feed[name] = self._placed(name, picked)
        for name, array in self.shared.items():
            if name in states:
                feed[name] = self._placed(name, states.pop(name))
                continue
            axis = self.layout.of(name).axis
            feed[name] = array if axis is None else array.repeat(len(rows), axis)
        return feed

    def beginnings(self, name: str, rows: np.ndarray) -> np.ndarray:
        """Return what a state input is where a stream begins, of [rows, ...]."""
        if name in self.inputs:
            return _picked(self.inputs[name], rows)
        array, axis = self.shared[name], self.layout.of(name).axis
        row = array[None] if axis is None else np.moveaxis(array, axis, 0)
        return row.repeat(len(rows), 0)

    def example(self, rows: int, first: int = 0) -> dict[str, np.ndarray]:
        """Return one call of so many rows, or of as many as the model fixes.

        Args:
            rows: how many rows; those after the last begin again with row 0, and where shapes
                differ one row is repeated.
            first: the row to begin with.
        """
        size = self.batch or rows
        which = (np.full(size, first) if self.is_ragged else np.arange(size) + first) % self.count
        return self.feed(which)

    def _placed(self, name: str, array: np.ndarray) -> np.ndarray:
        """Return rows of [rows, ...] as the model takes them."""
        axis = self.layout.of(name).axis
        if axis is None:
            return np.asarray(array[0])
        return np.ascontiguousarray(np.moveaxis(array, 0, axis)) if axis else array


def _picked(array: Array, rows: np.ndarray) -> np.ndarray:
    """Return some rows as one array; a view where they follow one another."""
    if isinstance(array, Ragged):
        return np.stack(list(array[rows]))
    first, last = int(rows[0]), int(rows[-1])
    if last - first == len(rows) - 1 and (np.diff(rows) == 1).all():
        return array[first : last + 1]
    return np.asarray(array[rows])
