"""Predicts the accuracy of subnets from some that were scored: a Gaussian process.

It ranks well enough to leave out what is hopeless, and no better (``docs/nas.md`` has its rank
correlation): finalists are always scored. Once-for-All trains a network for the same purpose on
16,000 subnets (arXiv 1908.09791, section 3.4); of a few dozen a Gaussian process makes more
(Rasmussen and Williams, 2006, algorithm 2.1 and equation 5.8).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.linalg import cho_solve, cholesky

from mlflow_compress.nas.latency import ranks_agree
from mlflow_compress.nas.space import Space, Subnet

__all__ = ["Predictor"]

_LENGTHS = (0.5, 1.0, 2.0, 4.0, 8.0)
_NOISES = (0.03, 0.1, 0.3, 1.0)


@dataclass(frozen=True)
class Predictor:
    """A Gaussian process over the choices of a subnet, with a linear and a smooth part.

    Attributes:
        space: of the subnets.
        points: features of those that were scored, [subnets, features].
        weights: of each of them in a prediction, [subnets].
        length: how far the smooth part reaches.
        mean: of the scores.
        scale: of the scores.
        agreement: Spearman's rank correlation of the scores with what is predicted for each subnet
            from all the others (equation 5.12).
    """

    space: Space
    points: np.ndarray
    weights: np.ndarray
    length: float
    mean: float
    scale: float
    agreement: float

    @classmethod
    def fit(cls, space: Space, subnets: Sequence[Subnet], scores: Sequence[float]) -> "Predictor":
        """Learn from subnets with their accuracies; length and noise by marginal likelihood."""
        points = np.array([subnet.features(space) for subnet in subnets])
        values = np.asarray(scores, dtype=np.float64)
        mean, scale = float(values.mean()), float(values.std()) or 1.0
        targets = (values - mean) / scale
        best: tuple[float, float, np.ndarray, np.ndarray] | None = None
        for length in _LENGTHS:
            covariance = _kernel(points, points, length)
            for noise in _NOISES:
                factor = cholesky(covariance + noise * np.eye(len(points)), lower=True)
                weights = cho_solve((factor, True), targets)
                likelihood = -0.5 * targets @ weights - np.log(np.diag(factor)).sum()
                if best is None or likelihood > best[0]:
                    inverse = cho_solve((factor, True), np.eye(len(points)))
                    best = float(likelihood), length, weights, np.diag(inverse)
        assert best is not None
        _, length, weights, diagonal = best
        left_out = targets - weights / diagonal
        return cls(
            space,
            points,
            weights,
            length,
            mean,
            scale,
            ranks_agree(left_out.tolist(), targets.tolist()),
        )

    def predict(self, subnets: Sequence[Subnet]) -> np.ndarray:
        """Return the accuracies expected of subnets, [subnets]."""
        points = np.array([subnet.features(self.space) for subnet in subnets])
        made: np.ndarray = _kernel(points, self.points, self.length) @ self.weights
        return self.mean + self.scale * made


def _kernel(one: np.ndarray, other: np.ndarray, length: float) -> np.ndarray:
    squares = ((one[:, None] - other[None]) ** 2).sum(2)
    made: np.ndarray = (
        np.exp(-squares / (2 * length**2)) + (one - 0.5) @ (other - 0.5).T / one.shape[1]
    )
    return made
