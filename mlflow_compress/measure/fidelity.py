"""Closeness of a variant's outputs to its source's, each by its kind; no labels are needed."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from onnx import ModelProto

from mlflow_compress.errors import DataError
from mlflow_compress.measure.bounds import (
    jackknife_interval,
    mean_interval,
    ratio_interval,
    share_bound,
)
from mlflow_compress.measure.data import Dataset
from mlflow_compress.measure.outputs.boxes import compare_boxes
from mlflow_compress.measure.outputs.classes import ClassRows, compare_classes, log_scores
from mlflow_compress.measure.outputs.embedding import compare_embeddings, same_neighbours
from mlflow_compress.measure.outputs.sequence import compare_sequences
from mlflow_compress.measure.outputs.tell import Evidence, tell_outputs
from mlflow_compress.measure.outputs.values import ValueRows, compare_values
from mlflow_compress.measure.smoothed import flip_interval, kl_bound
from mlflow_compress.records import MEASURES, Fidelity, Interval, Output, OutputFidelity
from mlflow_compress.rows import Array, Ragged

__all__ = ["measure_fidelity"]

_WORST = 0.01

Outputs = Mapping[str, Array]


def measure_fidelity(
    variant: Outputs,
    source: Outputs,
    dataset: Dataset,
    outputs: Sequence[Output] | None = None,
    *,
    level: float | None = 0.95,
    others: Outputs | None = None,
) -> Fidelity:
    """Compare what two models give for the same rows, output by output.

    Args:
        variant: the variant's outputs by name, each of [rows, ...] or an array per row.
        source: the source's.
        dataset: the rows, for the record.
        outputs: what each output is; those that are ignored are left out. None tells it from what
            the source gives, without its graph, so that most are values.
        level: confidence level of the intervals; None measures none, which is quicker.
        others: the source's outputs on other rows, which say how sure it is of its classes; those
            that techniques have seen will do.

    Raises:
        DataError: the variant lacks an output.
    """
    found = []
    if outputs is None:
        outputs = tell_outputs(Evidence(ModelProto(), source, dataset.labels))
    for output in outputs:
        if output.kind == "ignore":
            continue
        if output.name not in variant:
            raise DataError(
                f"output {output.name!r} is missing; the model gives {', '.join(variant)}"
            )
        judge = _JUDGES[output.kind]
        one = judge(output, variant, source, None if output.is_fixed else level, others or {})
        if output.is_fixed and not _is_same(one):  # its graph is another, or its inputs are
            one = judge(output, variant, source, level, others or {})
        found.append(one)
    found = _as_one_decision(found, outputs)
    classes = [one.measures for one in found if one.kind == "classes"]
    divergences = [one["kl"] for one in classes if "kl" in one]
    return Fidelity(
        agreement=min((one["agreement"] for one in classes), default=None),
        kl=max(divergences, default=None),
        dataset=dataset.ref,
        outputs=tuple(found),
        score=min((one.quality for one in found), default=None),
    )


def _as_one_decision(
    found: list[OutputFidelity], outputs: Sequence[Output]
) -> list[OutputFidelity]:
    """Let numbers and texts share the interval of the scores that they were decided by.

    Counting alone says little of few rows; how far scores stray says much.
    """
    scored = {
        one.decision: one.intervals["agreement"]
        for one in found
        if "kl" in one.intervals and one.decision
    }
    counted = {o.name for o in outputs if o.kind == "classes" and o.form in ("numbers", "texts")}
    return [
        replace(
            one,
            intervals={
                "agreement": scored[one.decision].including(one.measures["agreement"]),
            },
        )
        if one.output in counted and one.intervals and one.decision in scored
        else one
        for one in found
    ]


def _classes(
    output: Output, variant: Outputs, source: Outputs, level: float | None, others: Outputs
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
        intervals = _class_intervals(output, rows, given, wanted, others.get(output.name), level)
    return _fidelity(output, measures, intervals, broken)


def _class_intervals(
    output: Output,
    rows: ClassRows,
    given: Array,
    wanted: Array,
    others: Array | None,
    level: float,
) -> dict[str, Interval]:
    """Return the intervals of classes: smoothed where there are scores, else counted."""
    if output.form in ("numbers", "texts") or isinstance(given, Ragged) or rows.broken.any():
        counted = _share_interval(1 - rows.agreement, level)
        return {"agreement": Interval(1 - counted.high, 1 - counted.low, level)}
    known = None if others is None or isinstance(others, Ragged) else log_scores(output, others)
    scores = (log_scores(output, np.asarray(wanted)), log_scores(output, given), known)
    flips = flip_interval(*scores, level=level)
    low = mean_interval(rows.kl, level=level).low
    high = kl_bound(*scores, level=(1 + level) / 2).bound
    return {
        "agreement": Interval(1 - flips.high, 1 - flips.low, level),
        "kl": Interval(max(low, 0.0), high, level),
    }


def _share_interval(missed: np.ndarray, level: float) -> Interval:
    """Return the interval of a share that rows make up, each with 0 to 1 of itself."""
    each = (1 + level) / 2
    rows = len(missed)
    low = share_bound(float(missed.sum()), rows, level=each, side="lower").bound
    high = share_bound(float(missed.sum()), rows, level=each).bound
    return Interval(max(low, 0.0), min(high, 1.0), level)


def _values(
    output: Output, variant: Outputs, source: Outputs, level: float | None, _others: Outputs
) -> OutputFidelity:
    given, wanted = variant[output.name], source[output.name]
    measures, rows = _errors(output, given, wanted)
    intervals: dict[str, Interval] = {}
    if level is not None:
        worst = rows.worst
        error = ratio_interval(rows.errors[:, worst], rows.powers[:, worst], level=level)
        intervals = {
            "error": error,
            "snr": Interval(_decibels(error.high), _decibels(error.low), level),
            "r2": Interval(1 - error.high, 1 - error.low, level),
        }
    return _fidelity(output, measures, intervals, int(rows.broken.sum()))


def _embedding(
    output: Output, variant: Outputs, source: Outputs, level: float | None, _others: Outputs
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
        away = mean_interval(1 - cosines, level=level)
        intervals["cosine"] = Interval(1 - away.high, 1 - away.low, level)
        same = None if vectors is None else same_neighbours(vectors)
        if same is not None:
            measures["neighbours"] = float(same.mean())
            changed = _share_interval(1.0 - same, level)
            intervals["neighbours"] = Interval(1 - changed.high, 1 - changed.low, level)
    return _fidelity(output, measures, intervals, int(broken.sum()))


def _boxes(
    output: Output, variant: Outputs, source: Outputs, level: float | None, _others: Outputs
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
                rows.hits[:, column] - rows.hits[:, 0], rows.hits[:, column], level=level, unit=1.0
            )
            intervals[name] = Interval(1 - missed.high, 1 - missed.low, level)
        spread = jackknife_interval(rows.average_precision, len(rows.hits), level=level)
        # Without a miss nothing spreads, and few boxes still say little.
        low = min(spread.low, intervals["precision"].low, intervals["recall"].low)
        intervals["map"] = Interval(low, spread.high, level)
    return _fidelity(output, measures, intervals, int(rows.broken.sum()))


def _sequence(
    output: Output, variant: Outputs, source: Outputs, level: float | None, _others: Outputs
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
        intervals["edits"] = ratio_interval(rows[:, 0], rows[:, 1], level=level, unit=1.0)
        missed = _share_interval(1 - rows[:, 2], level)
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


def _is_same(one: OutputFidelity) -> bool:
    """Whether an output is the source's own in every row."""
    if one.broken:
        return False
    if "error" in one.measures:
        return one.measures["error"] == 0
    return all(value == MEASURES[name].best for name, value in one.measures.items())


def _errors(output: Output, given: Array, wanted: Array) -> tuple[dict[str, float], ValueRows]:
    rows = compare_values(output, given, wanted)
    rows = rows.whole if rows.is_still else rows
    error = rows.error
    return {"error": error, "snr": _decibels(error), "r2": 1 - error}, rows


def _decibels(error: float) -> float:
    return -10 * math.log10(max(error, 1e-30)) if error < math.inf else -math.inf


def _is_number(rows: Array) -> bool:
    return np.asarray(rows[0]).dtype.kind == "f"


def _fidelity(
    output: Output,
    measures: Mapping[str, float],
    intervals: Mapping[str, Interval],
    broken: int,
) -> OutputFidelity:
    stretched = {name: interval.including(measures[name]) for name, interval in intervals.items()}
    return OutputFidelity(
        output.name, output.kind, measures, stretched, broken=broken, decision=output.decision
    )
