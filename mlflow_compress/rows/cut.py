"""From outputs to rows: cuts what calls give, and puts the rows in order."""

from collections.abc import Mapping, Sequence

import numpy as np

from mlflow_compress.rows.feeds import Call
from mlflow_compress.rows.ragged import Array, Ragged

__all__ = ["Collected", "RowlessError", "row_axes", "rows_of"]


class RowlessError(Exception):
    """An output does not have the rows of a call along the axis where they should be."""

    def __init__(self, output: str, shape: Sequence[int], rows: int) -> None:
        """Remember the output's name, its shape, and the rows of the call."""
        super().__init__(f"output {output!r} has shape {list(shape)} for {rows} rows")
        self.output = output


class Collected:
    """The outputs of many calls, cut into rows.

    Args:
        axes: each output's axis of rows; None for outputs that have none, which are kept whole
            for the row of their call, or for every row of a call of several.
    """

    def __init__(self, axes: Mapping[str, int | None]) -> None:
        self._axes = dict(axes)
        self._rows: list[np.ndarray] = []
        self._parts: dict[str, list[np.ndarray]] = {name: [] for name in axes}

    def add(self, call: Call, size: int, outputs: Mapping[str, np.ndarray]) -> None:
        """Keep what a call gave.

        Args:
            call: the call.
            size: how many rows it was given, those repeated to fill it included.
            outputs: what it gave, by name.

        Raises:
            RowlessError: an output does not have the rows along its axis.
        """
        cut = {
            name: rows_of(name, outputs[name], axis, size)[: len(call.rows)]
            for name, axis in self._axes.items()
        }
        self._rows.append(call.rows)
        for name, part in cut.items():
            self._parts[name].append(part)

    def arrays(self) -> dict[str, Array]:
        """Return each output's rows in order: one array where their shapes are equal."""
        order = np.concatenate(self._rows)
        back = None if (np.diff(order) == 1).all() else np.argsort(order, kind="stable")
        return {name: _joined(parts, back) for name, parts in self._parts.items()}


def rows_of(name: str, output: np.ndarray, axis: int | None, size: int) -> np.ndarray:
    """Return an output of a call with the rows first.

    Raises:
        RowlessError: it does not have ``size`` rows along the axis.
    """
    if axis is None:
        return np.broadcast_to(output, (size, *output.shape))
    if output.ndim <= axis or output.shape[axis] != size:
        raise RowlessError(name, output.shape, size)
    return np.moveaxis(output, axis, 0)


def row_axes(
    fewer: Mapping[str, np.ndarray], more: Mapping[str, np.ndarray], sizes: tuple[int, int]
) -> dict[str, int | None]:
    """Return each output's axis of rows, from two calls with different numbers of rows.

    Args:
        fewer: the outputs of the first call, by name.
        more: those of the second.
        sizes: rows of the first and of the second.
    """
    axes: dict[str, int | None] = {}
    for name, one in fewer.items():
        two = more[name]
        along = [
            axis
            for axis, pair in enumerate(zip(one.shape, two.shape, strict=False))
            if pair == sizes and one.ndim == two.ndim
        ]
        axes[name] = along[0] if along else None
    return axes


def _joined(parts: list[np.ndarray], back: np.ndarray | None) -> Array:
    if len({part.shape[1:] for part in parts}) == 1:
        whole = np.concatenate(parts)
        return whole if back is None else whole[back]
    rows = [row for part in parts for row in part]
    return Ragged(rows if back is None else [rows[index] for index in back])
