"""Rate-distortion quantization of arrays to a uniform grid.

Chou, Lookabaugh and Gray, "Entropy-Constrained Vector Quantization", 1989, for the alternation of
assignment and code lengths; Frantar et al., "GPTQ", 2023, section 3, for error feedback. Here both
at once: each column is rounded to the grid point with the least error plus cost of its bits, and
its error is moved to the columns that are still to come.
"""

import math
from dataclasses import dataclass

import numpy as np

from mlflow_compress.techniques.numeric.algebra import inverse, root

__all__ = [
    "Grid",
    "Spread",
    "choose_grid",
    "entropy_bits",
    "round_feedback",
    "round_plain",
    "round_spread",
]

_LIMIT = 127
"""Grid points go from -127 to 127 steps."""

_STEPS = (0.5, 0.7, 1.0, 1.4, 2.0, 2.8)
"""Multiples of the step that high-resolution theory gives, of which the best is taken."""

_SAMPLE = 50_000
"""Of tensors more than twice as large, the step is chosen on so many weights."""

_UNSEEN = 0.5
"""Grid points that nothing fell on count as half a weight, so that they stay reachable."""

_DAMPING = 1e-2
"""Added to a Gram matrix before it is inverted, relative to its mean diagonal."""

_ROUNDING = 1e-12
"""The same for an inverse, which is positive definite but for rounding."""

_BLOCK = 64
"""Columns whose errors are moved to the columns after the block all at once."""


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
    return _round(weights / grid.step, importance * grid.step**2, grid, price)


def _round(scaled: np.ndarray, scale: np.ndarray, grid: Grid, price: float) -> np.ndarray:
    """Round weights given in steps to the cheapest of the nearest point, the next, and zero."""
    near = np.rint(scaled)
    np.clip(near, -grid.limit, grid.limit, out=near)
    if not price:
        return near.astype(np.int64)
    costs = price * grid.bits
    best = near.astype(np.int64)
    cost = scale * (scaled - near) ** 2 + costs[best + _LIMIT]
    toward = best - np.sign(best)
    rival = scale * (scaled - toward) ** 2 + costs[toward + _LIMIT]
    won = rival < cost
    best[won] = toward[won]
    np.minimum(cost, rival, out=cost)
    best[(scale * scaled**2 + costs[_LIMIT] < cost) | (scaled == 0)] = 0
    return best


def choose_grid(
    weights: np.ndarray, importance: np.ndarray, price: float
) -> tuple[Grid, np.ndarray]:
    """Return the grid, and its symbols, with the least error plus price of bits.

    The step of a large tensor is chosen on a sample of it. Arguments are those of
    :func:`round_plain`.
    """
    importance = np.broadcast_to(importance, weights.shape)
    if weights.size > 2 * _SAMPLE:
        stride = -(-weights.size // _SAMPLE) | 1  # odd, so as not to hit one column every time
        grid, _ = choose_grid(weights.ravel()[::stride], importance.ravel()[::stride], price)
        top = float(np.abs(weights).max())
        grid = Grid(max(grid.step, top / _LIMIT), grid.bits)
        symbols = round_plain(weights, importance, grid, price)
        grid = grid.learnt(symbols)
        return grid, round_plain(weights, importance, grid, price)
    mean = float(np.mean(importance))
    ideal = math.sqrt(6 * price / (math.log(2) * max(mean, 1e-30)))
    top = float(np.abs(weights).max(initial=0))
    if top == 0:
        return Grid(1.0, np.zeros(2 * _LIMIT + 1)), np.zeros(weights.shape, np.int64)
    tries: list[tuple[float, Grid, np.ndarray]] = []
    for step in dict.fromkeys(min(max(ideal * f, top / _LIMIT), 4 * top) for f in _STEPS):
        grid = Grid(step, np.zeros(2 * _LIMIT + 1))
        symbols = round_plain(weights, importance, grid, 0.0)
        for _ in range(3):
            grid = grid.learnt(symbols)
            symbols = round_plain(weights, importance, grid, price)
        error = float((importance * (weights - step * symbols) ** 2).sum())
        tries.append((error + price * entropy_bits(symbols), grid, symbols))
    _, grid, symbols = min(tries, key=lambda made: made[0])
    return grid, symbols


@dataclass(frozen=True)
class Spread:
    """How the error of each column of a matrix spreads over the columns still to come.

    Attributes:
        order: the columns in the order in which they are rounded, [groups, inputs].
        upper: upper Cholesky factors of the inverse Gram matrices in that order,
            [groups, inputs, inputs].
        sensitivity: by how much the squared error grows per squared change of a weight when the
            others make up for it, [groups, inputs], in the columns' own order.
    """

    order: np.ndarray
    upper: np.ndarray
    sensitivity: np.ndarray

    @classmethod
    def of(cls, grams: np.ndarray) -> "Spread":
        """Return it for second moments of the inputs, [groups, inputs, inputs]."""
        order = np.argsort(-np.diagonal(grams, axis1=1, axis2=2), axis=1, kind="stable")
        lower, _ = root(grams, _DAMPING)
        spread = np.stack([inverse(one) for one in lower])
        sensitivity = 1 / np.diagonal(spread, axis1=1, axis2=2)
        groups = np.arange(len(grams))[:, None, None]
        spread = spread[groups, order[:, :, None], order[:, None, :]]
        upper, _ = root((spread + spread.transpose(0, 2, 1)) / 2, _ROUNDING)
        return cls(order, upper.transpose(0, 2, 1), sensitivity)


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
    units = None if scales is None else scales[None]
    return round_spread(weights[None], Spread.of(gram[None]), energy, grid, price, units)[0]


def round_spread(
    weights: np.ndarray,
    spread: Spread,
    energy: float,
    grid: Grid,
    price: float,
    scales: np.ndarray | None = None,
) -> np.ndarray:
    """Do as :func:`round_feedback` for [groups, outputs, inputs], all groups at once."""
    size, upper = weights.shape[2], spread.upper
    # columns first, so that each is contiguous; in steps of the grid
    work = np.take_along_axis(weights, spread.order[:, None], axis=2) / grid.step
    work = np.ascontiguousarray(work.transpose(2, 0, 1))
    units: np.ndarray | None = None
    if scales is not None:
        units = np.take_along_axis(scales, spread.order[:, None], axis=2).transpose(2, 0, 1)
    fixed = work == 0
    any_fixed = fixed.any(axis=(1, 2))
    symbols = np.zeros(work.shape, np.int64)
    for begin in range(0, size, _BLOCK):
        end = min(begin + _BLOCK, size)
        errors = np.zeros((end - begin, *work.shape[1:]))
        for column in range(begin, end):
            pivot = upper[:, column, column, None]
            value = work[column]
            unit = 1.0 if units is None else units[column]
            chosen = _round(value / unit, grid.step**2 / (pivot**2 * energy), grid, price)
            if any_fixed[column]:
                chosen[fixed[column]] = 0
            symbols[column] = chosen
            error = (value - unit * chosen) / pivot
            # a transposed row of the factor: [columns, groups, 1]
            work[column + 1 : end] -= error * upper[:, column, column + 1 : end].T[..., None]
            errors[column - begin] = error
        if end < size:
            moved = upper[:, begin:end, end:].transpose(0, 2, 1) @ errors.transpose(1, 0, 2)
            work[end:] -= moved.transpose(1, 0, 2)
    out = np.empty_like(symbols)
    np.put_along_axis(out, spread.order.T[..., None], symbols, axis=0)
    return out.transpose(1, 2, 0)
