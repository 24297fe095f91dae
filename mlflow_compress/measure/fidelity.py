"""Closeness of a variant's outputs to its source's, each by its kind; no labels are needed."""

import math
from collections.abc import Mapping, Sequence

import numpy as np

from mlflow_compress.errors import DataError
from mlflow_compress.measure.bounds import (
    flip_interval,
    grouped_interval,
    mean_interval,
    ratio_interval,
)
from mlflow_compress.measure.data import Dataset
from mlflow_compress.measure.outputs.boxes import compare_boxes
from mlflow_compress.measure.outputs.classes import compare_classes, log_scores
from mlflow_compress.measure.outputs.embedding import compare_embeddings, same_neighbours
from mlflow_compress.measure.outputs.sequence import compare_sequences
from mlflow_compress.measure.outputs.values import compare_values
from mlflow_compress.records import Fidelity, Interval, Output, OutputFidelity
from mlflow_compress.rows import Array

__all__ = ["measure_fidelity"]

_WORST = 0.01

Outputs = Mapping[str, Array]


def measure_fidelity(
    variant: Outputs,
    source: Outputs,
    outputs: Sequence[Output],
    dataset: Dataset,
    *,
    level: float | None = 0.95,
    margins: Outputs | None = None,
) -> Fidelity:
    """Compare what two models give for the same rows, output by output.

    Args:
        variant: the variant's outputs by name, each of [rows, ...] or an array per row.
        source: the source's.
        outputs: what each output is; those that are ignored are left out.
        dataset: the rows, for the record.
        level: confidence level of the intervals; None measures none, which is quicker.
        margins: the source's outputs on more rows, which say how sure it is of its classes; the
            same rows when None.

    Raises:
        DataError: the variant lacks an output.
    """
    found = []
    for output in outputs:
        if output.kind == "ignore":
            continue
        if output.name not in variant:
            raise DataError(
                f"output {output.name!r} is missing; the model gives {', '.join(variant)}"
            )
        found.append(_JUDGES[output.kind](output, variant, source, level, margins or {}))
    classes = [one.measures for one in found if one.kind == "classes"]
    divergences = [one["kl"] for one in classes if "kl" in one]
    return Fidelity(
        agreement=min((one["agreement"] for one in classes), default=None),
        kl=max(divergences, default=None),
        dataset=dataset.ref,
        outputs=tuple(found),
        score=min((one.quality for one in found), default=None),
    )


def _classes(
    output: Output, variant: Outputs, source: Outputs, level: float | None, margins: Outputs
) -> OutputFidelity:
    given, wanted = variant[output.name], source[output.name]
    rows = compare_classes(output, given, wanted)
    measures = {"agreement": float(rows.agreement.mean())}
    intervals: dict[str, Interval] = {}
    if not np.isnan(rows.kl).any():
        measures["kl"] = float(rows.kl.mean())
    broken = int(rows.broken.sum())
    if _is_number(wanted):
        measures |= _errors(output, given, wanted)[0]
    if level is not None:
        intervals["agreement"] = _agreement_interval(
            output, rows.agreement, given, wanted, margins.get(output.name, wanted), level
        )
        if "kl" in measures:
            intervals["kl"] = mean_interval(rows.kl, level)
    return _fidelity(output, measures, intervals, broken)


def _agreement_interval(
    output: Output, agreement: np.ndarray, given: Array, wanted: Array, margins: Array, level: float
) -> Interval:
    """Return the interval of the agreement: smoothed where there are scores, else counted."""
    arrays = (given, wanted, margins)
    scored = output.form not in ("numbers", "texts")
    if scored and all(isinstance(one, np.ndarray) for one in arrays):
        scores = [log_scores(output, np.asarray(one)) for one in arrays]
        if all(np.isfinite(one).all() for one in scores):
            flips = flip_interval(scores[1], scores[0], scores[2], level)
            return Interval(1 - flips.high, 1 - flips.low, level)
    flips = mean_interval(1 - agreement, level, most=1.0)
    return Interval(1 - flips.high, 1 - flips.low, level)


def _values(
    output: Output, variant: Outputs, source: Outputs, level: float | None, margins: Outputs
) -> OutputFidelity:
    given, wanted = variant[output.name], source[output.name]
    measures, rows = _errors(output, given, wanted)
    intervals = {}
    if level is not None:
        worst = rows.worst
        intervals["error"] = ratio_interval(rows.errors[:, worst], rows.powers[:, worst], level)
    return _fidelity(output, measures, intervals, int(rows.broken.sum()))


def _embedding(
    output: Output, variant: Outputs, source: Outputs, level: float | None, margins: Outputs
) -> OutputFidelity:
    given, wanted = variant[output.name], source[output.name]
    cosines, broken, vectors = compare_embeddings(output, given, wanted)
    worst = max(1, math.ceil(_WORST * len(cosines)))
    measures = {
        "cosine": float(cosines.mean()),
        "cosine_low": float(np.sort(cosines)[:worst].mean()),
        **_errors(output, given, wanted)[0],
    }
    intervals = {}
    if level is not None:
        away = mean_interval(1 - cosines, level, most=2.0)
        intervals["cosine"] = Interval(1 - away.high, 1 - away.low, level)
        same = None if vectors is None else same_neighbours(vectors)
        if same is not None:
            measures["neighbours"] = float(same.mean())
            changed = mean_interval(1.0 - same, level, most=1.0)
            intervals["neighbours"] = Interval(1 - changed.high, 1 - changed.low, level)
    return _fidelity(output, measures, intervals, int(broken.sum()))


def _boxes(
    output: Output, variant: Outputs, source: Outputs, level: float | None, margins: Outputs
) -> OutputFidelity:
    rows = compare_boxes(output, variant, source)
    same, given, wanted = rows.hits.sum(axis=0)
    measures = {
        "precision": float(same / given) if given else float(not wanted),
        "recall": float(same / wanted) if wanted else 1.0,
        "map": rows.average_precision(),
    }
    intervals = {}
    if level is not None:
        for name, column in (("precision", 1), ("recall", 2)):
            missed = ratio_interval(
                rows.hits[:, column] - rows.hits[:, 0], rows.hits[:, column], level
            )
            intervals[name] = Interval(1 - missed.high, 1 - missed.low, level)
        intervals["map"] = grouped_interval(rows.average_precision, len(rows.hits), level)
    return _fidelity(output, measures, intervals, int(rows.broken.sum()))


def _sequence(
    output: Output, variant: Outputs, source: Outputs, level: float | None, margins: Outputs
) -> OutputFidelity:
    given, wanted = variant[output.name], source[output.name]
    rows, broken = compare_sequences(output, given, wanted)
    edits, symbols, same = rows.sum(axis=0)
    measures = {
        "edits": float(edits / symbols) if symbols else (math.inf if edits else 0.0),
        "decoded": float(same / len(rows)),
    }
    if _is_number(wanted):
        measures |= _errors(output, given, wanted)[0]
    intervals = {}
    if level is not None:
        intervals["edits"] = ratio_interval(rows[:, 0], rows[:, 1], level)
        missed = mean_interval(1 - rows[:, 2], level, most=1.0)
        intervals["decoded"] = Interval(1 - missed.high, 1 - missed.low, level)
    return _fidelity(output, measures, intervals, int(broken.sum()))


_JUDGES = {
    "classes": _classes,
    "values": _values,
    "embedding": _embedding,
    "boxes": _boxes,
    "sequence": _sequence,
    "state": _values,
}


def _errors(output: Output, given: Array, wanted: Array):  # type: ignore[no-untyped-def]
    rows = compare_values(output, given, wanted)
    error = rows.error
    snr = -10 * math.log10(max(error, 1e-30)) if error < math.inf else -math.inf
    return {"error": error, "snr": snr, "r2": 1 - error}, rows


def _is_number(rows: Array) -> bool:
    return np.asarray(rows[0]).dtype.kind == "f"


def _fidelity(
    output: Output,
    measures: Mapping[str, float],
    intervals: Mapping[str, Interval],
    broken: int,
) -> OutputFidelity:
    return OutputFidelity(
        output.name, output.kind, measures, intervals, broken=broken, decision=output.decision
    )
