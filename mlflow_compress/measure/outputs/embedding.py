"""Embeddings: cosine similarity with the source's, and whether neighbours stay neighbours."""

import numpy as np

from mlflow_compress.measure.outputs.pairs import broken_rows, pairs
from mlflow_compress.records import Output
from mlflow_compress.rows import Array

__all__ = ["compare_embeddings", "same_neighbours"]

_MOST = 2000
"""Rows among which neighbours are looked for; the first so many."""


def compare_embeddings(
    spec: Output, variant: Array, source: Array
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Return each row's mean cosine with the source's, [rows], which rows are broken, and vectors.

    The vectors are None where a row has several (an embedding for each token), else both models'
    as [2, rows, features], for :func:`same_neighbours`.
    """
    cosines: list[np.ndarray] = []
    broken: list[np.ndarray] = []
    vectors: list[np.ndarray | None] = []
    for pair in pairs(variant, source):
        if pair is None:
            cosines.append(np.full(1, -1.0))
            broken.append(np.zeros(1, bool))
            vectors.append(None)
            continue
        one, other = (_features_last(spec, array.astype(np.float64)) for array in pair)
        bad = broken_rows(*pair)
        with np.errstate(invalid="ignore", over="ignore"):
            norms = np.linalg.norm(one, axis=-1) * np.linalg.norm(other, axis=-1)
            each = (one * other).sum(axis=-1) / np.where(norms > 0, norms, 1)
        each = np.where(norms > 0, each, 0.0).mean(axis=1)
        cosines.append(np.where(bad, -1.0, np.nan_to_num(each, nan=-1.0)))
        broken.append(bad)
        vectors.append(np.stack([one[:, 0], other[:, 0]]) if one.shape[1] == 1 else None)
    single = [pair for pair in vectors if pair is not None]
    sizes = {pair.shape[-1] for pair in single}
    whole = len(single) == len(vectors) and len(sizes) == 1
    joined = np.concatenate(single, axis=1) if whole else None
    return np.concatenate(cosines), np.concatenate(broken), joined


def same_neighbours(vectors: np.ndarray) -> np.ndarray | None:
    """Return which rows have the same nearest other row in both, [rows] of bool; None below 3 rows.

    Args:
        vectors: the variant's and the source's, [2, rows, features].
    """
    vectors = vectors[:, :_MOST]
    if vectors.shape[1] < 3 or not np.isfinite(vectors).all():
        return None
    nearest = []
    for each in vectors:
        norms = np.linalg.norm(each, axis=1, keepdims=True)
        unit = each / np.where(norms > 0, norms, 1)
        likeness = unit @ unit.T
        np.fill_diagonal(likeness, -np.inf)
        nearest.append(likeness.argmax(axis=1))
    return nearest[0] == nearest[1]


def _features_last(spec: Output, array: np.ndarray) -> np.ndarray:
    """Return [rows, vectors, features]."""
    if array.ndim < 2:
        return array.reshape(len(array), 1, 1)
    moved = np.moveaxis(array, -1 if spec.axis is None else spec.axis, -1)
    return moved.reshape(len(array), -1, moved.shape[-1])
