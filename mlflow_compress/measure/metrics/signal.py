"""Metrics of signals: sound that is denoised, separated or reconstructed."""

import numpy as np

from mlflow_compress.errors import DataError
from mlflow_compress.measure.metrics.base import Metric, Rows, by_row
from mlflow_compress.measure.metrics.reading import floats_first

__all__ = ["SI_SDR"]

_MOST = 100.0
"""Decibels at most, and below 0 at least: an exact copy would be infinitely good."""


def _decibels(rows: Rows) -> np.ndarray:
    """Return the scale-invariant ratio of signal to distortion, dB [rows]; NaN of silent labels.

    Le Roux et al., "SDR: half-baked or well done?", 2019, equation 3. Samples are along the last
    axis; of several channels it is the mean.
    """
    output, labels = rows.output, rows.wanted
    if labels.dtype.kind not in "iuf" or output.size != labels.size or output.ndim < 2:
        raise DataError(
            f"si_sdr needs signals of [rows, ..., samples] and labels of the same shape; got "
            f"{output.dtype} of {list(output.shape)} and {labels.dtype} of {list(labels.shape)}"
        )
    given = output.astype(np.float64).reshape(rows.count, -1, output.shape[-1])
    wanted = labels.astype(np.float64).reshape(given.shape)
    power = (wanted**2).sum(axis=2)
    heard = power > 0
    scale = (given * wanted).sum(axis=2) / np.where(heard, power, 1)
    target = scale[..., None] * wanted
    signal, noise = (target**2).sum(axis=2), ((given - target) ** 2).sum(axis=2)
    least = 10 ** (-_MOST / 10)
    ratio = np.clip(signal / np.maximum(noise, 1e-300), least, 1 / least)
    ratio = np.where(np.isnan(ratio), least, ratio)
    sums = np.where(heard, 10 * np.log10(ratio), 0).sum(axis=1)
    channels = heard.sum(axis=1)
    return np.where(channels > 0, sums / np.maximum(channels, 1), np.nan)


def _mean_of_heard(decibels: np.ndarray) -> float:
    heard = decibels[~np.isnan(decibels)]
    return float(heard.mean()) if len(heard) else float("nan")


SI_SDR = Metric(
    "si_sdr",
    by_row(_decibels, _mean_of_heard),
    reads=floats_first,
    unit="dB",
    undefined="every label is silent",
)
