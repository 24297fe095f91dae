"""Rate-distortion quantization of arrays to a uniform grid.

Chou, Lookabaugh and Gray, "Entropy-Constrained Vector Quantization", 1989, for the alternation of
assignment and code lengths; Frantar et al., "GPTQ", 2023, section 3, for error feedback. Here both
at once: each column is rounded to the grid point with the least error plus cost of its bits, and
its error is moved to the columns that are still to come.
"""

import math
from dataclasses import dataclass

import numpy as np
from scipy import linalg

__all__ = ["Grid", "choose_grid", "entropy_bits", "round_feedback", "round_plain"]

_LIMIT = 127
"""Grid points go from -127 to 127 steps."""

_STEPS = (0.5, 0.7, 1.0, 1.4, 2.0, 2.8)
"""Multiples of the step that high-resolution theory gives, of which the best is taken."""

_UNSEEN = 0.5
"""Grid points that nothing fell on count as half a weight, so that they stay reachable."""

_DAMPING = 1e-2


@dataclass(frozen=True)
class Grid:
    """A uniform grid and the code length of its points.

    Attributes:
        step: distance of two points.
        bits: code length in bits of the points -127 … 127, shape [255].
        limit: largest step number that may be used, at most 127.
    """

    step: float
    bits: np.ndarray
    limit: int = _LIMIT

    def learnt(self, symbols: np.ndarray) -> "Grid":
        """Return the grid with the ideal code lengths of these symbols."""
        counts = np.bincount(symbols.ravel() + _LIMIT, minlength=2 * _LIMIT + 1)
        share = (counts + _UNSEEN) / (symbols.size + _UNSEEN * counts.size)
        return Grid(self.step, -np.log2(share), self.limit)


def entropy_bits(symbols: np.ndarray) -> float:
    """Return the order-0 entropy of grid symbols, in bits in all."""
    counts = np.bincount(symbols.ravel() + _LIMIT)
    counts = counts[counts > 0]
    return float(-(counts * np.log2(counts / symbols.size)).sum())


def round_plain(
    weights: np.ndarray, importance: np.ndarray, grid: Grid, price: float
) -> np.ndarray:
    """Return the symbols with the least ``importance * error² + price * bits``, each by itself.

    Args:
        weights: any shape; exact zeros stay zeros.
        importance: error weights that broadcast to the weights.
        grid: step and code lengths.
        price: error that one bit is worth.
    """
    scaled = weights / grid.step
    near = np.clip(np.rint(scaled), -grid.limit, grid.limit)
    toward = near - np.sign(near)
    best = near
    scale = importance * grid.step**2
    cost = scale * (scaled - near) ** 2 + price * grid.bits[near.astype(np.int64) + _LIMIT]
    for other in (toward, np.zeros_like(near)):
        rival = scale * (scaled - other) ** 2 + price * grid.bits[other.astype(np.int64) + _LIMIT]
        best = np.where(rival < cost, other, best)
        cost = np.minimum(rival, cost)
    return np.where(weights == 0, 0, best).astype(np.int64)


def choose_grid(
    weights: np.ndarray, importance: np.ndarray, price: float
) -> tuple[Grid, np.ndarray]:
    """Return the grid, and its symbols, with the least error plus price of bits.

    Arguments are those of :func:`round_plain`.
    """
    mean = float(np.mean(np.broadcast_to(importance, weights.shape)))
    ideal = math.sqrt(6 * price / (math.log(2) * max(mean, 1e-30)))
    top = float(np.abs(weights).max(initial=0))
    if top == 0:
        return Grid(1.0, np.zeros(2 * _LIMIT + 1)), np.zeros(weights.shape, np.int64)
    tries: list[tuple[float, Grid, np.ndarray]] = []
    for factor in _STEPS:
        step = min(max(ideal * factor, top / _LIMIT), 4 * top)
        grid = Grid(step, np.zeros(2 * _LIMIT + 1))
        symbols = round_plain(weights, importance, grid, 0.0)
        for _ in range(3):
            grid = grid.learnt(symbols)
            symbols = round_plain(weights, importance, grid, price)
        error = float((importance * (weights - step * symbols) ** 2).sum())
        tries.append((error + price * entropy_bits(symbols), grid, symbols))
    _, grid, symbols = min(tries, key=lambda made: made[0])
    return grid, symbols


def round_feedback(
    weights: np.ndarray,
    gram: np.ndarray,
    energy: float,
    grid: Grid,
    price: float,
    scales: np.ndarray | None = None,
) -> np.ndarray:
    """Return symbols rounded column by column with error feedback.

    Args:
        weights: [outputs, inputs]; exact zeros stay zeros.
        gram: second moments of the inputs, [inputs, inputs].
        energy: error is counted relative to this.
        grid: step and code lengths.
        price: relative error that one bit is worth.
        scales: the grid's unit at each weight, [outputs, inputs]; None means 1.
    """
    size = len(gram)
    damped = gram + (_DAMPING * np.trace(gram) / size + 1e-12) * np.eye(size)
    order = np.argsort(-np.diag(damped), kind="stable")
    damped = damped[np.ix_(order, order)]
    # the rows of the upper Cholesky factor of the inverse spread the error of each column
    lower = linalg.cholesky(damped, lower=True)
    inverse = linalg.lapack.dpotri(lower, lower=1)[0]
    inverse = np.tril(inverse) + np.tril(inverse, -1).T
    upper = linalg.cholesky(inverse, lower=False)
    work = weights[:, order].copy()
    fixed = work == 0
    units = None if scales is None else scales[:, order]
    symbols = np.zeros(work.shape, np.int64)
    block = 64
    for begin in range(0, size, block):
        end = min(begin + block, size)
        errors = np.zeros((len(work), end - begin))
        for column in range(begin, end):
            pivot = upper[column, column]
            value = work[:, column]
            unit = 1.0 if units is None else units[:, column]
            chosen = round_plain(value / unit, np.array(1 / (pivot**2 * energy)), grid, price)
            chosen = np.where(fixed[:, column], 0, chosen)
            symbols[:, column] = chosen
            error = (value - unit * (grid.step * chosen)) / pivot
            work[:, column + 1 : end] -= np.outer(error, upper[column, column + 1 : end])
            errors[:, column - begin] = error
        work[:, end:] -= errors @ upper[begin:end, end:]
    out = np.empty_like(symbols)
    out[:, order] = symbols
    return out
