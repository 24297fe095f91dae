"""Metrics of values: regression, quality scores, signals and maps of numbers."""

from collections.abc import Callable

import numpy as np
from scipy.stats import rankdata

from mlflow_compress.errors import DataError
from mlflow_compress.measure.metrics.base import Metric, Rows, by_row
from mlflow_compress.measure.metrics.reading import floats_first

__all__ = ["COSINE", "MAE", "PEARSON", "R2", "RMSE", "SPEARMAN"]

_CONSTANT = "the labels are the same in every row"


def given_and_wanted(rows: Rows) -> tuple[np.ndarray, np.ndarray]:
    """Return output and labels as float64 of [rows, values].

    Raises:
        DataError: they do not have the same numbers of values.
    """
    output, labels = rows.output, rows.wanted
    if labels.dtype.kind not in "biuf" or output.size != labels.size:
        raise DataError(
            f"labels of shape {list(labels.shape)} ({labels.dtype}) do not match the output's "
            f"shape {list(output.shape)}"
        )
    if output.dtype.kind not in "biuf":
        raise DataError(f"output {rows.name!r} is {output.dtype}, expected numbers")
    given = output.reshape(rows.count, -1).astype(np.float64)
    return given, labels.reshape(given.shape).astype(np.float64)


def _errors(rows: Rows) -> np.ndarray:
    """Return the differences from the labels, [rows, values]; infinite where there is none."""
    given, wanted = given_and_wanted(rows)
    return np.where(np.isnan(given), np.inf, given - wanted)


def _mean_size(rows: Rows) -> np.ndarray:
    return np.abs(_errors(rows)).mean(axis=1)


def _root_mean_square(errors: np.ndarray) -> float:
    return float(np.sqrt(np.mean(errors**2)))


def _cosines(rows: Rows) -> np.ndarray:
    given, wanted = given_and_wanted(rows)
    norms = np.linalg.norm(wanted, axis=1) * np.linalg.norm(given, axis=1)
    cosines = (wanted * given).sum(axis=1) / np.where(norms > 0, norms, 1)
    return np.where(np.isnan(cosines), -1.0, cosines)


def _squares(rows: Rows) -> np.ndarray:
    """Return squared errors, labels and their squares, [rows, 3, values]; labels are centred."""
    errors, (_, wanted) = _errors(rows), given_and_wanted(rows)
    centred = wanted - wanted.mean(axis=0)
    return np.stack([errors**2, centred, centred**2], axis=1)


def _explained(squares: np.ndarray) -> float:
    """Return R2, the mean over the values that are not constant."""
    rest, sums, total = squares.sum(axis=0)
    total = total - sums**2 / len(squares)
    varies = total > 1e-12 * max(float(total.max(initial=0)), 1e-300)
    if not varies.any():
        return float("nan")
    return float(np.mean(1 - rest[varies] / total[varies]))


def _both(rows: Rows) -> np.ndarray:
    """Return output and labels, [rows, 2, values]."""
    return np.stack(given_and_wanted(rows), axis=1)


def _correlation(rank: bool) -> Callable[[np.ndarray], float]:
    """Return what takes [rows, 2, values] to the mean correlation of the values over rows."""

    def correlation(both: np.ndarray) -> float:
        given, wanted = both[:, 0], both[:, 1]
        varies = np.ptp(wanted, axis=0) > 0
        if not varies.any():
            return float("nan")
        given, wanted = given[:, varies], wanted[:, varies]
        if not np.isfinite(given).all():
            return -1.0
        if rank:
            given, wanted = rankdata(given, axis=0), rankdata(wanted, axis=0)
        given, wanted = given - given.mean(axis=0), wanted - wanted.mean(axis=0)
        norms = np.linalg.norm(given, axis=0) * np.linalg.norm(wanted, axis=0)
        # a constant output is related to nothing
        found = (given * wanted).sum(axis=0) / np.where(norms > 0, norms, 1)
        return float(found.mean())

    return correlation


MAE = Metric("mae", by_row(_mean_size), reads=floats_first, higher_is_better=False, unit="")
RMSE = Metric(
    "rmse",
    by_row(_errors, _root_mean_square),
    reads=floats_first,
    higher_is_better=False,
    unit="",
)
R2 = Metric("r2", by_row(_squares, _explained), reads=floats_first, unit="", undefined=_CONSTANT)
COSINE = Metric("cosine", by_row(_cosines), reads=floats_first, unit="")
PEARSON = Metric(
    "pearson",
    by_row(_both, _correlation(rank=False)),
    reads=floats_first,
    unit="",
    draws=500,
    undefined=_CONSTANT,
)
SPEARMAN = Metric(
    "spearman",
    by_row(_both, _correlation(rank=True)),
    reads=floats_first,
    unit="",
    draws=500,
    undefined=_CONSTANT,
)
