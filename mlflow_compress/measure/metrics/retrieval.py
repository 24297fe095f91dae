"""Metrics of embeddings, by the nearest among the rows themselves."""

import numpy as np

from mlflow_compress.errors import DataError
from mlflow_compress.measure.metrics.base import Metric, MetricFamily, Rows, by_row
from mlflow_compress.measure.metrics.reading import floats_first

__all__ = ["NEAREST_NEIGHBOUR", "RECALL"]

_BLOCK = 1 << 24
"""So many similarities are computed at a time."""


def _nearest(embeddings: np.ndarray, what: str, k: int) -> np.ndarray:
    """Return the k nearest other rows by cosine, [rows, k]; rows with NaN are near to none.

    Raises:
        DataError: these are no embeddings, or there are too few rows.
    """
    rows = len(embeddings)
    flat = embeddings.reshape(rows, -1)
    if flat.shape[1] != max(embeddings.shape[1:], default=0) or embeddings.dtype.kind not in "iuf":
        raise DataError(
            f"{what} has {embeddings.dtype} of shape {list(embeddings.shape)}, expected one "
            f"embedding per row, [rows, values]; name the output that has it with output"
        )
    if rows <= k:
        raise DataError(f"{rows} rows are too few to find the {k} nearest others of each")
    unit = flat.astype(np.float64)
    unit /= np.maximum(np.linalg.norm(unit, axis=1, keepdims=True), 1e-300)
    found = np.empty((rows, k), np.int64)
    for begin in range(0, rows, step := max(1, _BLOCK // rows)):
        near = unit[begin : begin + step] @ unit.T
        near[np.isnan(near)] = -np.inf
        near[np.arange(len(near)), begin + np.arange(len(near))] = -np.inf
        found[begin : begin + step] = np.argsort(-near, axis=1, kind="stable")[:, :k]
    return found


def _found_again(rows: Rows, k: int) -> np.ndarray:
    """Return whether one of the k nearest is of the same group, of the rows that are not alone."""
    groups = rows.wanted.reshape(-1)
    if len(groups) != rows.count:
        raise DataError(
            f"recall@{k} needs the number or name of its group for each row, got labels of shape "
            f"{list(rows.wanted.shape)}"
        )
    _, numbers, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    together = sizes[numbers] > 1
    if not together.any():
        raise DataError(f"recall@{k} needs rows of the same group, and every row has its own")
    nearest = _nearest(rows.output, f"output {rows.name!r}", k)
    sound = ~np.isnan(rows.output.reshape(rows.count, -1)).any(axis=1)
    hits = (numbers[nearest] == numbers[:, None]) & sound[nearest]
    return (hits.any(axis=1) & sound)[together]


def _same_neighbour(rows: Rows) -> np.ndarray:
    """Return whether the nearest other row is the one that it is by the labels' embeddings."""
    given = _nearest(rows.output, f"output {rows.name!r}", 1)[:, 0]
    wanted = _nearest(rows.wanted, "the array of labels", 1)[:, 0]
    sound = ~np.isnan(rows.output.reshape(rows.count, -1)).any(axis=1)
    return (given == wanted) & sound


def _recall(name: str, k: str) -> Metric:
    return Metric(name, by_row(lambda rows: _found_again(rows, int(k))), reads=floats_first)


RECALL = MetricFamily("recall@K", r"recall@([1-9]\d*)", _recall)
NEAREST_NEIGHBOUR = Metric("nearest_neighbour", by_row(_same_neighbour), reads=floats_first)
