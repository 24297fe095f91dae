"""What packing, ``fold`` and ``trim`` make of onnx's own cases of single operators.

Run as a module it prints a JSON line per case, way and step. Every few cases run in a process of
their own, as onnxruntime may end it by a signal.
"""

import contextlib
import itertools
import json
import multiprocessing
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
import onnxruntime as ort
from onnx import ModelProto, TensorProto, numpy_helper

from mlflow_compress import packed, techniques
from mlflow_compress.errors import CompressError
from mlflow_compress.records import Recipe, Step
from mlflow_compress.techniques import Context
from mlflow_compress.techniques.graph.running import ORT_ERRORS

HARD = ("sequence", "string", "optional", "loop", "_if", "scan", "expanded", "training", "random",
        "quantize", "float8", "int4", "uint2", "bfloat16", "zero_size", "empty", "nan")  # fmt: skip
"""Kinds of cases that a sample takes more of: what their names hold."""

WAYS = ("given", "held")
"""How a model gets its inputs: as they are, or all but the first as weights."""

EXACT, REFUSED, NO_SOURCE, WRONG, FOREIGN, CRASH = (
    "exact", "refused", "not run by onnxruntime", "WRONG", "FOREIGN ERROR", "CRASH")  # fmt: skip
FAULTS = (WRONG, FOREIGN, CRASH)

_ROUNDING = 1e-3
"""Of an output's largest value: fused operators round otherwise."""

_CHUNK = 40


@dataclass(frozen=True)
class Case:
    """One case: a model, and inputs of its own by name."""

    name: str
    model: ModelProto
    feed: Mapping[str, object]


@dataclass(frozen=True)
class Verdict:
    """What one step made of one case."""

    case: str
    way: str
    step: str
    verdict: str
    text: str = ""


def cases() -> list[Case]:
    """All cases that onnx brings, in the order of their names; it takes 20 s to make them."""
    from onnx.backend.test.loader import load_model_tests

    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        found = load_model_tests(kind="node")
    made = []
    for case in sorted(found, key=lambda case: case.name):
        names = [value.name for value in case.model.graph.input]
        given, _ = case.data_sets[0]
        made.append(Case(case.name, case.model, dict(zip(names, given, strict=False))))
    return made


def sample(every: Sequence[Case], step: int) -> list[Case]:
    """Every so many of all cases, and of each hard kind."""
    wanted = {case.name for case in every[::step]}
    for kind in HARD:
        wanted |= {case.name for case in [c for c in every if kind in c.name][:: step // 2]}
    return [case for case in every if case.name in wanted]


def held(case: Case) -> Case | None:
    """The case with all tensors but the first input as weights; None where there are none."""
    model = ModelProto()
    model.CopyFrom(case.model)
    first = next(iter(case.feed), None)
    moved = {
        name: array
        for name, array in case.feed.items()
        if name != first and isinstance(array, np.ndarray) and array.dtype != object
    }
    if not moved:
        return None
    kinds = {value.name: value.type.tensor_type.elem_type for value in model.graph.input}
    for name, array in moved.items():
        tensor = numpy_helper.from_array(array, name)
        if tensor.data_type != kinds[name] or tensor.data_type == TensorProto.STRING:
            return None
        model.graph.initializer.append(tensor)
    kept = [value for value in case.model.graph.input if value.name not in moved]
    del model.graph.input[:]
    model.graph.input.extend(kept)
    return Case(case.name, model, {n: a for n, a in case.feed.items() if n not in moved})


def verdicts(case: Case) -> Iterator[Verdict]:
    """Yield what every step makes of a case, in both ways."""
    for way, some in zip(WAYS, (case, held(case)), strict=True):
        if some is None:
            continue
        wanted = _source(some)
        for step, judge in _STEPS.items():
            yield _judged(some, way, step, lambda case, j=judge, w=wanted: j(case, w))


def _judged(case: Case, way: str, step: str, judge: Callable[[Case], tuple[str, str]]) -> Verdict:
    try:
        verdict, text = judge(case)
    except CompressError as error:
        text = str(error)  # an accident of a technique is told as one, and is a fault all the same
        verdict = FOREIGN if "fails on this model" in text else REFUSED
    except Exception as error:  # noqa: BLE001 - what this is here to find
        verdict, text = FOREIGN, f"{type(error).__name__}: {error}"
    return Verdict(case.name, way, step, verdict, " ".join(text.split())[:500])


def _session(model: ModelProto | bytes) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    data = model if isinstance(model, bytes) else model.SerializeToString()
    return ort.InferenceSession(data, options, providers=["CPUExecutionProvider"])


def _outputs(opened: ort.InferenceSession, feed: Mapping[str, object]) -> list[object]:
    wanted = {value.name for value in opened.get_inputs()}
    return opened.run(None, {name: value for name, value in feed.items() if name in wanted})


def _source(case: Case) -> list[object] | None:
    """The source's outputs; None where onnxruntime has none, or others each time."""
    try:
        first, second = (_outputs(_session(case.model), case.feed) for _ in range(2))
    except (*ORT_ERRORS, ValueError, RuntimeError, TypeError):
        return None
    return first if _change(first, second) == 0 else None


Wanted = Sequence[object] | None
Judge = Callable[[Case, Wanted], tuple[str, str]]


def _packs(profile: str) -> Judge:
    def judge(case: Case, wanted: Wanted) -> tuple[str, str]:
        before = case.model.SerializeToString(deterministic=True)
        made = packed.to_bytes(packed.pack(case.model, profile))
        packed.verify(made)
        if packed.unpack(made).SerializeToString(deterministic=True) != before:
            return WRONG, "other bytes come back"
        return _compared(case, wanted, made, packed.load if profile == "compact" else _session, 0)

    return judge


def _keeps(*techniques_: str, profile: str = "compact", with_rows: bool = False) -> Judge:
    def judge(case: Case, wanted: Wanted) -> tuple[str, str]:
        rows = dict(case.feed) if with_rows else None
        if rows is not None and not all(isinstance(a, np.ndarray) for a in rows.values()):
            rows = None
        recipe = Recipe(tuple(Step(name, {}) for name in techniques_), profile)
        normal = techniques.normalize(case.model)
        made = techniques.apply_recipe(normal, recipe, Context(calibration=rows)).model
        if profile == "portable":
            made = packed.pack(made, profile)
        return _compared(case, wanted, made, _session, _ROUNDING)

    return judge


def _compared(
    case: Case, wanted: Wanted, made: Any, opens: Callable[[Any], Any], rounding: float
) -> tuple[str, str]:
    if wanted is None:
        return NO_SOURCE, ""
    change = _change(wanted, _outputs(opens(made), case.feed))
    return (EXACT, "") if change <= rounding else (WRONG, f"outputs differ by {change}")


_STEPS = {
    "compact": _packs("compact"),
    "portable": _packs("portable"),
    "raised": _keeps(profile="portable"),
    "fold": _keeps("fold"),
    "fold on rows": _keeps("fold", with_rows=True),
    "trim": _keeps("trim"),
    "trim on rows": _keeps("trim", with_rows=True),
}


def _change(one: object, two: object) -> float:
    """How far two outputs are apart, relative to the largest value; infinite of other kinds."""
    if isinstance(one, list | dict):
        parts = (one, two) if isinstance(one, list) else (list(one.items()), list(two.items()))
        if type(one) is not type(two) or len(one) != len(two):
            return np.inf
        return max(itertools.starmap(_change, zip(*parts, strict=True)), default=0.0)
    if not isinstance(one, np.ndarray) or not isinstance(two, np.ndarray):
        return 0.0 if one == two else np.inf
    if one.shape != two.shape or one.dtype != two.dtype:
        return np.inf
    if one.dtype.kind not in "fcV" and one.dtype.name != "bfloat16":
        return 0.0 if np.array_equal(one, two) else np.inf
    if one.tobytes() == two.tobytes():
        return 0.0
    a, b = one.astype(np.float64), two.astype(np.float64)
    same = (a == b) | (np.isnan(a) & np.isnan(b))
    finite = np.isfinite(a) & np.isfinite(b)
    if not (same | finite).all():
        return np.inf
    largest = np.abs(a[np.isfinite(a)]).max(initial=0)
    return float(np.abs(a - b)[~same].max(initial=0)) / max(largest, 1e-3)


def run(some: Sequence[Case]) -> Iterator[Verdict]:
    """Yield the verdicts on cases, each few of which run in a process of their own."""
    fork = multiprocessing.get_context("fork")
    left = list(some)
    while left:
        chunk, left = left[:_CHUNK], left[_CHUNK:]
        receiver, sender = fork.Pipe(duplex=False)
        child = fork.Process(target=_chunk, args=(chunk, sender))
        child.start()
        sender.close()
        begun, done, steps = "", 0, 0
        with contextlib.suppress(EOFError):
            while True:
                told = receiver.recv()
                if isinstance(told, Verdict):
                    steps += 1
                    yield told
                else:
                    begun, done, steps = told, done + 1, 0
        child.join()
        if child.exitcode:  # before any step it is the source that onnxruntime ran
            verdict = CRASH if steps else NO_SOURCE
            yield Verdict(begun, "", "", verdict, f"it ended with {child.exitcode}")
            left = chunk[done:] + left


def _chunk(some: Iterable[Case], sender: Connection) -> None:
    warnings.simplefilter("ignore")
    for case in some:
        sender.send(case.name)
        for verdict in verdicts(case):
            sender.send(verdict)
    sender.close()


def main(arguments: Sequence[str]) -> None:
    """Print the verdicts on all cases, on the named ones, or on ``--every 20``."""
    some = cases()
    if arguments[:1] == ["--every"]:
        some = sample(some, int(arguments[1]))
    elif arguments:
        some = [case for case in some if case.name in arguments]
    for verdict in run(some):
        print(json.dumps(asdict(verdict)), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
