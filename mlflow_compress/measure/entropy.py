"""Entropy, cross-entropy and Kullback-Leibler divergence, of weights and of outputs."""

from collections.abc import Mapping

import numpy as np

__all__ = ["code_bits", "entropy", "kl_divergence", "redundancy"]


def entropy(values: np.ndarray) -> float:
    """Return the order-0 Shannon entropy of an array's values in bits per value."""
    if values.size == 0:
        return 0.0
    counts = np.unique(values, return_counts=True)[1]
    share = counts / values.size
    return float(-(share * np.log2(share)).sum()) + 0.0


def code_bits(values: np.ndarray, lengths: Mapping[float, float]) -> float:
    """Return the mean bits per value that a code spends: the cross-entropy of values and code.

    Args:
        values: any array.
        lengths: the code's length in bits for each value that occurs.
    """
    found, counts = np.unique(values, return_counts=True)
    spent = sum(lengths[value] * count for value, count in zip(found.tolist(), counts, strict=True))
    return float(spent) / values.size


def redundancy(values: np.ndarray, lengths: Mapping[float, float]) -> float:
    """Return the bits per value that a code spends beyond the entropy.

    For a complete code this is the KL divergence, in bits, of the values' distribution from the
    one the code is made for: ``sum p log2(p / 2^-length)``.
    """
    return code_bits(values, lengths) - entropy(values)


def kl_divergence(p: np.ndarray, q: np.ndarray, floor: float = 1e-12) -> np.ndarray:
    """Return KL(p ‖ q) in nats along the last axis.

    Args:
        p: distributions, [..., classes].
        q: distributions, [..., classes].
        floor: the least probability of ``q``, so that one rounded to zero costs much, not
            infinitely much.
    """
    p = np.asarray(p, np.float64)
    q = np.maximum(np.asarray(q, np.float64), floor)
    terms = np.where(p > 0, p * (np.log(np.where(p > 0, p, 1)) - np.log(q)), 0.0)
    return np.maximum(terms.sum(axis=-1), 0)
