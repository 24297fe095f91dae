"""Which operators make a variant slower than its source, by onnxruntime's own profiler.

The profiler adds some microseconds to every node, so that its sums are above what a call takes:
they say where the time goes, not how long a call is.
"""

import json
from collections import Counter
from pathlib import Path

import onnx
import onnxruntime as ort

from mlflow_compress.base.scratch import ScratchFolder
from mlflow_compress.measure.data import Dataset
from mlflow_compress.measure.runner import session_options
from mlflow_compress.packed.ort_errors import ORT_ERRORS
from mlflow_compress.records import OperatorTime

__all__ = ["slower_operators"]

_CALLS, _WARMUPS = 30, 5

_MOST = 5
"""So many operators are told."""

_ERRORS: tuple[type[Exception], ...] = (*ORT_ERRORS, OSError, ValueError)

_LEAST = 0.05
"""Operators that take less than this share of the variant's time are not."""


def slower_operators(
    variant: onnx.ModelProto, source: onnx.ModelProto, dataset: Dataset, threads: int = 1
) -> tuple[OperatorTime, ...]:
    """Return the kinds of operators on which a variant spends more than its source does.

    Args:
        variant: the variant, not packed.
        source: the source.
        dataset: its first row is run, or as many as the model's batch is fixed to.
        threads: threads per call.

    Returns:
        At most five kinds, those that cost most more first; none where onnxruntime gives no
        profile.
    """
    try:
        ours, theirs = (_profile(model, dataset, threads) for model in (variant, source))
    except _ERRORS:
        return ()  # a hint in a report: its lack must not fail a trial
    total = sum(ours.values())
    found = [
        OperatorTime(name, spent, theirs.get(name, 0.0))
        for name, spent in ours.items()
        if spent > theirs.get(name, 0.0) and spent > _LEAST * total
    ]
    found.sort(key=lambda one: one.ms - one.source_ms, reverse=True)
    return tuple(found[:_MOST])


def _profile(model: onnx.ModelProto, dataset: Dataset, threads: int) -> dict[str, float]:
    """Return milliseconds per call by kind of operator, as onnxruntime runs them."""
    options = session_options(threads)
    with ScratchFolder() as folder:
        options.enable_profiling = True
        options.profile_file_prefix = str(Path(folder) / "profile")
        session = ort.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        feed = dataset.fed.example(1)
        for _ in range(_WARMUPS + _CALLS):
            session.run(None, feed)
        events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    nodes = [event for event in events if event.get("cat") == "Node"]
    kernels = [event for event in nodes if event["name"].endswith("_kernel_time")]
    calls: Counter[str] = Counter()
    spent: Counter[str] = Counter()
    for event in kernels:
        calls[event["name"]] += 1
        if calls[event["name"]] > _WARMUPS:
            spent[event["args"]["op_name"]] += event["dur"]
    return {name: micro / 1000 / _CALLS for name, micro in spent.items()}
