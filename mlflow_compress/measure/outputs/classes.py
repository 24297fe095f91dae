"""Classes: agreement of the best class, and the KL divergence of the distributions."""

from dataclasses import dataclass

import numpy as np

from mlflow_compress.measure.entropy import kl_divergence
from mlflow_compress.measure.outputs.pairs import broken_rows, pairs
from mlflow_compress.records import Output
from mlflow_compress.rows import Array

__all__ = ["BINARY", "ClassRows", "class_numbers", "compare_classes", "distributions", "log_scores"]

BINARY = ("binary", "binary logits")
"""Forms in which one number stands for the choice between two classes."""

_FLOOR = 1e-12


@dataclass(frozen=True)
class ClassRows:
    """What each row says.

    Attributes:
        agreement: share of a row's positions with the source's class, [rows].
        kl: mean KL divergence over a row's positions, nats, [rows]; NaN where there are no scores.
        broken: rows that are not finite, [rows] of bool; they agree nowhere.
    """

    agreement: np.ndarray
    kl: np.ndarray
    broken: np.ndarray


def compare_classes(spec: Output, variant: Array, source: Array) -> ClassRows:
    """Compare classes row by row; a row of another shape agrees nowhere."""
    agreement, kl, broken = [], [], []
    for pair in pairs(variant, source):
        if pair is None:
            agreement.append(np.zeros(1))
            kl.append(np.full(1, np.inf))
            broken.append(np.zeros(1, bool))
            continue
        given, wanted = pair
        bad = broken_rows(given, wanted)
        same = class_numbers(spec, given) == class_numbers(spec, wanted)
        share = same.reshape(len(given), -1).mean(axis=1) if same.size else np.ones(len(given))
        agreement.append(np.where(bad, 0.0, share))
        kl.append(np.where(bad, np.inf, _kl(spec, given, wanted)))
        broken.append(bad)
    return ClassRows(*(np.concatenate(parts) for parts in (agreement, kl, broken)))


def class_numbers(spec: Output, output: np.ndarray) -> np.ndarray:
    """Return what an output of [rows, ...] decides, without its axis of classes."""
    if spec.form in ("numbers", "texts"):
        return output.astype(np.str_) if output.dtype == object else output
    if spec.form in BINARY:
        return output > (0.5 if spec.form == "binary" else 0.0)
    assert spec.axis is not None
    # NaN is the largest for argmax; it must not win.
    scores = np.where(np.isnan(output), -np.inf, output)
    return scores.argmax(axis=spec.axis)


def log_scores(spec: Output, output: np.ndarray) -> np.ndarray:
    """Return scores on the scale of logits in float64, the classes along the last axis.

    Raises:
        ValueError: the output has no scores, only classes.
    """
    if spec.form in ("numbers", "texts"):
        raise ValueError(f"output {spec.name!r} has classes and no scores")
    values = output.astype(np.float64)
    if spec.form in BINARY:
        if spec.form == "binary":
            values = np.clip(values, _FLOOR, 1 - _FLOOR)
            values = np.log(values) - np.log1p(-values)
        return np.stack([np.zeros_like(values), values], axis=-1)
    assert spec.axis is not None
    values = np.moveaxis(values, spec.axis, -1)
    if spec.form == "probabilities":
        values = np.log(np.maximum(values, _FLOOR))
    return values


def distributions(spec: Output, output: np.ndarray) -> np.ndarray:
    """Return distributions along the last axis, in float64."""
    scores = log_scores(spec, output)
    scores = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return scores / scores.sum(axis=-1, keepdims=True)


def _kl(spec: Output, given: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    if spec.form in ("numbers", "texts"):
        return np.full(len(given), np.nan)
    with np.errstate(invalid="ignore", over="ignore"):
        each = kl_divergence(distributions(spec, wanted), distributions(spec, given))
    each = np.where(np.isnan(each), np.inf, each).reshape(len(given), -1)
    return each.mean(axis=1) if each.size else np.zeros(len(given))
