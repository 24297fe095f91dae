"""Second moments that have to be inverted, and are not quite what they ought to be.

Sums in single precision, and differences of them, leave matrices a little short of being positive
definite: a layer whose input never changes has moments of rounding only.
"""

import numpy as np
from scipy import linalg

from mlflow_compress.errors import TechniqueError

__all__ = ["inverse", "refuse_unfit", "ridge", "root"]

_LARGEST = 1e15
"""Squares of a million float32 values beyond it are no float32 any more."""

_LARGEST_DOUBLE = 1e150
"""The same of doubles."""

_LEAST = 1e-12
"""Where there is nothing to take a share of."""


def refuse_unfit(array: np.ndarray, what: str = "what a layer gets or gives") -> None:
    """Refuse values that are not finite, or too large for their squares to be summed.

    Args:
        array: the values, or such sums.
        what: whose they are, for the message.

    Raises:
        TechniqueError: they are.
    """
    largest = np.abs(array).max(initial=0)
    if not largest < (_LARGEST if array.dtype == np.float32 else _LARGEST_DOUBLE):
        raise TechniqueError(
            f"{what} on the calibration rows is not finite, or too large to be squared "
            f"({largest:.2g}): leave such rows out, or scale the inputs as in training"
        )


def ridge(grams: np.ndarray, share: float) -> np.ndarray:
    """Return what is added to the diagonals of matrices, [...]: a share of their means.

    Args:
        grams: [..., n, n].
        share: relative to the mean of the diagonal.
    """
    mean = np.trace(grams, axis1=-2, axis2=-1) / grams.shape[-1]
    return np.where(mean > 0, share * mean, _LEAST)


def root(grams: np.ndarray, share: float) -> tuple[np.ndarray, np.ndarray]:
    """Return lower Cholesky factors of matrices with a ridge, [..., n, n], and the ridges, [...].

    The ridge is that of :func:`ridge`, and grows until a matrix is positive definite.

    Raises:
        TechniqueError: a matrix is not finite.
    """
    refuse_unfit(grams)
    added = ridge(grams, share)
    try:
        return np.linalg.cholesky(_lifted(grams, added)), added
    except np.linalg.LinAlgError:
        each = [_root(gram, start) for gram, start in zip(
            grams.reshape(-1, *grams.shape[-2:]), added.ravel(), strict=True)]  # fmt: skip
    lower, most = np.stack([one for one, _ in each]), np.array([one for _, one in each])
    return lower.reshape(grams.shape), most.reshape(added.shape)


def _root(gram: np.ndarray, added: float) -> tuple[np.ndarray, float]:
    most = float(np.abs(gram).sum(axis=1).max())  # beyond it the diagonal outweighs the rest
    while True:
        try:
            return np.linalg.cholesky(_lifted(gram, np.array(added))), added
        except np.linalg.LinAlgError:
            if added > 10 * most:
                raise
            added *= 10


def _lifted(grams: np.ndarray, added: np.ndarray) -> np.ndarray:
    return np.asarray(grams + added[..., None, None] * np.eye(grams.shape[-1]))


def inverse(lower: np.ndarray) -> np.ndarray:
    """Return the inverse of the matrix that a lower Cholesky factor is of, [n, n]."""
    half = linalg.lapack.dpotri(lower, lower=1)[0]
    return np.asarray(np.tril(half) + np.tril(half, -1).T)
