"""Outputs row by row: arrays of one shape, or lists of arrays where shapes differ."""

from collections.abc import Iterator, Sequence

import numpy as np

__all__ = ["Rows", "broken_rows", "cleaned", "count", "pairs"]

Rows = np.ndarray | Sequence[np.ndarray]
"""An output on all rows: [rows, ...], or one array for each row."""


def count(output: Rows) -> int:
    """Return how many rows there are."""
    return len(output)


def pairs(variant: Rows, source: Rows) -> Iterator[tuple[np.ndarray, np.ndarray] | None]:
    """Yield both models' outputs in blocks of [rows, ...] of one shape, in the order of the rows.

    Yields None for a row whose shapes differ: nothing in it can be compared.
    """
    whole = isinstance(variant, np.ndarray) and isinstance(source, np.ndarray)
    if whole and variant.dtype != object and source.dtype != object:  # type: ignore[union-attr]
        assert isinstance(variant, np.ndarray) and isinstance(source, np.ndarray)
        if variant.shape == source.shape:
            yield variant, source
            return
    for given, wanted in zip(variant, source, strict=True):
        one, other = np.asarray(given), np.asarray(wanted)
        yield (one[None], other[None]) if one.shape == other.shape else None


def broken_rows(variant: np.ndarray, source: np.ndarray) -> np.ndarray:
    """Return which rows, [rows] of bool, have a value that is not finite where the source's is."""
    if variant.dtype.kind not in "fc":
        return np.zeros(len(variant), bool)
    broken = ~np.isfinite(variant)
    if not broken.any():
        return np.zeros(len(variant), bool)
    if source.dtype.kind in "fc":
        broken &= np.isfinite(source)
    return broken.reshape(len(variant), -1).any(axis=1)


def cleaned(variant: np.ndarray, source: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return both in float64 with 0 where the source is not finite, and where that is.

    A place where only the variant is not finite keeps its value, so that it counts as infinitely
    wrong.
    """
    one, other = variant.astype(np.float64), source.astype(np.float64)
    left_out = ~np.isfinite(other)
    if left_out.any():
        one, other = np.where(left_out, 0.0, one), np.where(left_out, 0.0, other)
    return one, other, left_out
