"""Streams: the state that one call gives goes into the next, row after row."""

from collections.abc import Iterator, Mapping

import numpy as np

from mlflow_compress.measure.data import Dataset
from mlflow_compress.rows import Call, Ragged, rows_of

__all__ = ["InOrder"]


class InOrder:
    """Calls a model on the rows of each stream in their order, and carries its states along.

    The first rows of several streams go into one call, then the second rows, and so on, as far as
    the model takes several.

    Args:
        dataset: the rows, with at least one state in their layout.
        keep: whether :meth:`kept` is wanted.
    """

    def __init__(self, dataset: Dataset, *, keep: bool = False) -> None:
        self._fed = dataset.fed
        self._states = dataset.layout.states
        ids = np.zeros(dataset.rows) if dataset.stream is None else dataset.stream
        _, which = np.unique(ids, return_inverse=True)
        self._stream = which.ravel()
        self._carried: dict[str, dict[int, np.ndarray]] = {name: {} for name in self._states}
        self._keep = keep
        self._kept: dict[str, list[np.ndarray]] = {name: [] for name in self._states}
        self._order: list[np.ndarray] = []

    def calls(self, size: int) -> Iterator[Call]:
        """Yield the calls; :meth:`carry` has to follow each.

        Args:
            size: rows per call at most.
        """
        ragged = any(isinstance(array, Ragged) for array in self._fed.inputs.values())
        size = self._fed.per_call(1 if ragged else size)
        streams = [np.flatnonzero(self._stream == n) for n in range(int(self._stream.max()) + 1)]
        for step in range(max(len(rows) for rows in streams)):
            now = np.sort([rows[step] for rows in streams if len(rows) > step])
            for begin in range(0, len(now), size):
                rows = now[begin : begin + size]
                states = {name: self._state(name, rows) for name in self._states}
                if self._keep:
                    self._order.append(rows)
                    for name, state in states.items():
                        self._kept[name].append(state)
                yield Call(rows, self._fed.feed(rows, states))

    def carry(
        self, call: Call, outputs: Mapping[str, np.ndarray], axes: Mapping[str, int | None]
    ) -> None:
        """Take the states for the next calls out of what a call gave.

        Args:
            call: the call.
            outputs: what it gave, by name.
            axes: each output's axis of rows.
        """
        size = self._fed.batch or len(call.rows)
        for name, output in self._states.items():
            rows = rows_of(output, outputs[output], axes.get(output, 0), size)
            for row, state in zip(call.rows, rows, strict=False):
                self._carried[name][int(self._stream[row])] = state

    def kept(self) -> dict[str, np.ndarray]:
        """Return the states that went into each row, of [rows, ...], by input."""
        back = np.argsort(np.concatenate(self._order), kind="stable")
        return {name: np.concatenate(parts)[back] for name, parts in self._kept.items()}

    def _state(self, name: str, rows: np.ndarray) -> np.ndarray:
        """Return a state for each row: what the call before gave, or how a stream begins."""
        state = np.array(self._fed.beginnings(name, rows))
        for index, row in enumerate(rows):
            known = self._carried[name].get(int(self._stream[row]))
            if known is not None:
                state[index] = known
        return state
