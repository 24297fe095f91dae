"""Two models' outputs side by side."""

from collections.abc import Iterator

import numpy as np

from mlflow_compress.rows import Array, Ragged

__all__ = ["broken_rows", "cleaned", "pairs"]


def pairs(variant: Array, source: Array) -> Iterator[tuple[np.ndarray, np.ndarray] | None]:
    """Yield both models' outputs in blocks of [rows, ...] of one shape, in the order of the rows.

    Yields None for a row whose shapes differ: nothing in it can be compared.
    """
    if (
        not isinstance(variant, Ragged)
        and not isinstance(source, Ragged)
        and variant.shape == source.shape
    ):
        yield variant, source
        return
    for given, wanted in zip(variant, source, strict=True):
        yield (given[None], wanted[None]) if given.shape == wanted.shape else None


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
