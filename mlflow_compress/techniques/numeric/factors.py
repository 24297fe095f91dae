"""A convolution's kernel as depthwise filters and pointwise weights, by least squares.

For each input channel the slice of the kernel is a matrix of [outputs, places], and a depthwise
convolution with r filters followed by a pointwise one is that matrix at rank r. With the inputs'
second moments S the nearest one is the truncated SVD of ``M L``, where ``S = L Lᵀ`` (Eckart and
Young, 1936, in the metric of the data). Filters and pointwise weights are then refitted in turn
over all channels at once, since channels make up for one another: each half is a linear problem
(alternating least squares, as in Lebedev et al., "Speeding-up Convolutional Neural Networks Using
Fine-tuned CP-Decomposition", 2015, section 3).
"""

from dataclasses import dataclass

import numpy as np
from scipy import linalg

from mlflow_compress.techniques.numeric.algebra import root

__all__ = ["Factors", "factorise", "lost"]

_RIDGE = 1e-5
"""Pull towards the factors as they are, relative to the diagonal's mean."""

_ROUNDS = 8
"""Alternations; what the later ones gain is small."""

_WIDEST = 2500
"""Filters with more values than this are not refitted together: the system's cube is too large."""


@dataclass(frozen=True)
class Factors:
    """One group of a convolution as two.

    Attributes:
        filters: depthwise, [channels, rank, places].
        points: pointwise, [outputs, channels, rank].
    """

    filters: np.ndarray
    points: np.ndarray

    def kernel(self) -> np.ndarray:
        """Return the kernel that both make together, [outputs, channels, places]."""
        return np.asarray(np.einsum("ocr,crk->ock", self.points, self.filters))


def factorise(kernel: np.ndarray, moments: np.ndarray | None, rank: int) -> Factors:
    """Return the factors with about the least squared error of the outputs.

    Args:
        kernel: [outputs, channels, places].
        moments: second moments of the inputs, [channels * places, channels * places]; None takes
            all inputs as equal and independent, so that only the weights count.
        rank: filters per channel.
    """
    made = _start(kernel, moments, rank)
    if moments is not None:
        wanted = moments @ kernel.reshape(len(kernel), -1).T
        for _ in range(_ROUNDS):
            made = _refit_points(made, moments, wanted)
            if made.filters.size > _WIDEST:
                break
            made = _refit_filters(made, moments, wanted)
    return _balanced(made)


def lost(kernel: np.ndarray, made: np.ndarray, moments: np.ndarray | None) -> float:
    """Return the squared error of the outputs relative to their own squares.

    Args:
        kernel: [outputs, channels, places].
        made: what stands for it, the same shape.
        moments: as :func:`factorise` takes them.
    """
    error = (kernel - made).reshape(len(kernel), -1)
    whole = kernel.reshape(len(kernel), -1)
    if moments is None:
        return float((error**2).sum() / max((whole**2).sum(), 1e-30))
    spent = max(float(((error @ moments) * error).sum()), 0.0)
    return spent / max(float(((whole @ moments) * whole).sum()), 1e-30)


def _start(kernel: np.ndarray, moments: np.ndarray | None, rank: int) -> Factors:
    """Return the truncated SVD of each channel by itself."""
    outputs, channels, places = kernel.shape
    filters = np.zeros((channels, rank, places))
    points = np.zeros((outputs, channels, rank))
    level = 1.0 if moments is None else float(np.trace(moments)) / len(moments) + 1e-30
    for channel in range(channels):
        lower: np.ndarray = np.eye(places)
        if moments is not None:
            part = slice(channel * places, (channel + 1) * places)
            # relative to all channels: one that is nearly dead must not count as much as they do
            lower, _ = root(moments[part, part] / level + _RIDGE * np.eye(places), _RIDGE)
        left, values, right = np.linalg.svd(kernel[:, channel] @ lower, full_matrices=False)
        count = min(rank, len(values))
        points[:, channel, :count] = left[:, :count] * values[:count]
        # right / lower: a filter whose outputs on the data are the right singular vector
        filters[channel, :count] = linalg.solve_triangular(lower.T, right[:count].T, lower=False).T
    return Factors(filters, points)


def _refit_points(made: Factors, moments: np.ndarray, wanted: np.ndarray) -> Factors:
    """Return the factors with the best pointwise weights for these filters."""
    channels, rank, places = made.filters.shape
    apart = np.zeros((channels, rank, channels, places))
    index = np.arange(channels)
    apart[index, :, index] = made.filters
    spread = apart.reshape(channels * rank, channels * places)
    old = made.points.reshape(len(made.points), -1)
    solved = _solve(spread @ moments @ spread.T, spread @ wanted, old.T)
    return Factors(made.filters, solved.T.reshape(made.points.shape))


def _refit_filters(made: Factors, moments: np.ndarray, wanted: np.ndarray) -> Factors:
    """Return the factors with the best filters for these pointwise weights."""
    channels, rank, places = made.filters.shape
    flat = made.points.reshape(-1, channels * rank)
    common = (flat.T @ flat).reshape(channels, rank, 1, channels, rank, 1)
    inputs = moments.reshape(channels, 1, places, channels, 1, places)
    gram = (common * inputs).reshape(channels * rank * places, -1)
    cross = np.einsum("ocr,cko->crk", made.points, wanted.reshape(channels, places, -1))
    solved = _solve(gram, cross.reshape(-1, 1), made.filters.reshape(-1, 1))
    return Factors(solved.reshape(made.filters.shape), made.points)


def _solve(gram: np.ndarray, cross: np.ndarray, old: np.ndarray) -> np.ndarray:
    """Return the solution of ``gram x = cross``, pulled towards ``old``.

    Channels that are nearly dead make rows of another order of magnitude, so all get a diagonal
    of 1 first.
    """
    diagonal = np.diag(gram)
    floor = 1e-8 * max(float(diagonal.mean()), 0.0) + 1e-30
    scale = 1 / np.sqrt(np.maximum(diagonal, floor))
    lower, added = root(gram * scale[:, None] * scale, _RIDGE)
    wanted = cross * scale[:, None] + added * old / scale[:, None]
    solved = linalg.cho_solve((lower, True), wanted) * scale[:, None]
    return np.asarray(solved)


def _balanced(made: Factors) -> Factors:
    """Return the factors with filters and pointwise weights of equal norm, for training."""
    one = np.sqrt((made.filters**2).sum(axis=2))
    two = np.sqrt((made.points**2).sum(axis=0))
    usable = (one > 0) & (two > 0)
    scale = np.where(usable, np.sqrt(np.where(usable, two, 1) / np.where(usable, one, 1)), 1)
    return Factors(made.filters * scale[..., None], made.points / scale)
