"""Rows of different shapes: sequences of different lengths, images of different sizes."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, overload

import numpy as np

__all__ = ["Array", "Ragged", "as_array"]


class Ragged:
    """Rows of one dtype and rank, each an array of a shape of its own.

    It is what an input or an output is where no array of [rows, ...] can hold it. As with such an
    array, ``len`` is the number of rows, a number picks one row, and a slice or an array of
    numbers picks several, which are a ``Ragged`` again.
    """

    def __init__(self, rows: Iterable[np.ndarray]) -> None:
        """Hold the rows as they are.

        Raises:
            ValueError: there are none, or their dtypes or ranks differ.
        """
        self._rows = tuple(rows)
        if not self._rows:
            raise ValueError("there are no rows")
        first = self._rows[0]
        for number, row in enumerate(self._rows):
            if row.dtype != first.dtype or row.ndim != first.ndim:
                raise ValueError(
                    f"row {number} is {row.dtype} with {row.ndim} axes, row 0 is {first.dtype} "
                    f"with {first.ndim}"
                )

    @property
    def dtype(self) -> np.dtype[Any]:
        """The dtype of every row."""
        return self._rows[0].dtype

    @property
    def ndim(self) -> int:
        """The number of axes, that of the rows included."""
        return self._rows[0].ndim + 1

    @property
    def shapes(self) -> list[tuple[int, ...]]:
        """Each row's shape."""
        return [row.shape for row in self._rows]

    @property
    def nbytes(self) -> int:
        """Bytes of all rows together."""
        return sum(row.nbytes for row in self._rows)

    def astype(self, dtype: Any) -> "Ragged":
        """Return the rows in another dtype."""
        return Ragged(row.astype(dtype, copy=False) for row in self._rows)

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self._rows)

    def __iter__(self) -> Iterator[np.ndarray]:
        """Iterate over the rows."""
        return iter(self._rows)

    @overload
    def __getitem__(self, which: int) -> np.ndarray: ...

    @overload
    def __getitem__(self, which: "slice | np.ndarray | Sequence[int]") -> "Ragged": ...

    def __getitem__(
        self, which: "int | np.integer[Any] | slice | np.ndarray | Sequence[int]"
    ) -> "np.ndarray | Ragged":
        """Return one row, or several as a ``Ragged``."""
        if isinstance(which, int | np.integer):
            return self._rows[int(which)]
        if isinstance(which, slice):
            return Ragged(self._rows[which])
        chosen = np.asarray(which)
        if chosen.dtype == bool:
            chosen = np.flatnonzero(chosen)
        return Ragged(self._rows[int(index)] for index in chosen)

    def __repr__(self) -> str:
        """Say how many rows there are, and of which shapes."""
        shown = ", ".join(str(list(shape)) for shape in self.shapes[:3])
        more = ", …" if len(self) > 3 else ""
        return f"Ragged({len(self)} rows of {self.dtype}: {shown}{more})"


Array = np.ndarray | Ragged
"""Values of all rows: an array of [rows, ...], or rows of different shapes."""


def as_array(rows: Sequence[np.ndarray]) -> Array:
    """Return rows as one array of [rows, ...] where their shapes are equal, else as ``Ragged``.

    Raises:
        ValueError: as :class:`Ragged`.
    """
    ragged = Ragged(rows)
    return np.stack(list(ragged)) if len(set(ragged.shapes)) == 1 else ragged
