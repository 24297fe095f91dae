"""Runs an ONNX model on calibration inputs, in batches, for techniques that look at activations."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import onnxruntime as ort
from onnx import ModelProto, TensorProto, TypeProto, helper

from mlflow_compress.base.ort_text import ort_line
from mlflow_compress.errors import DataError, TechniqueError
from mlflow_compress.packed.ort_errors import ORT_ERRORS, RUN_ERRORS
from mlflow_compress.rows import (
    Rows,
    declared_inputs,
    declared_outputs,
    likely_count,
    most_rows,
    place,
)

__all__ = [
    "ORT_ERRORS",
    "as_rows",
    "batches",
    "check_calibration",
    "check_unchanged",
    "fixed_batch",
    "largest_change",
    "probe",
    "run",
    "session",
]

_OPEN_SIZE = 4
"""What open axes are set to when inputs have to be invented."""

_SMALLEST = 1e-3
"""Changes are relative to no less: outputs of a sigmoid that are all but 0 are mostly rounding."""

_TOLD, _AT_ONCE = 32, 4
"""Rows on which the change of the outputs is told, and how many run in one call: what a network
computes of one image may take a hundred megabytes."""

_TOLERANCE = 1e-3
"""What must not change anything may change outputs by so much: operators that are fused round
otherwise."""

_CONSTANT = 1e-6
"""Outputs whose variance is a smaller share of their mean square say the same for every row."""


def session(model: ModelProto, *, fast: bool = False) -> ort.InferenceSession:
    """Open a single-threaded, quiet session, optimized only as far as opening it stays quick.

    Args:
        model: the model.
        fast: optimize all the way, for many batches.

    Raises:
        TechniqueError: onnxruntime does not take the model.
    """
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    levels = ort.GraphOptimizationLevel
    options.graph_optimization_level = levels.ORT_ENABLE_ALL if fast else levels.ORT_ENABLE_BASIC
    try:
        return ort.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
    except ORT_ERRORS as error:
        raise TechniqueError(f"onnxruntime does not load the model: {ort_line(error)}") from error


def run(
    opened: ort.InferenceSession, names: Sequence[str], feed: Mapping[str, np.ndarray]
) -> list[np.ndarray]:
    """Run one batch and return the named outputs.

    Raises:
        TechniqueError: onnxruntime refuses the inputs.
    """
    try:
        return list(opened.run(list(names), dict(feed)))
    except RUN_ERRORS as error:
        raise TechniqueError(
            f"the model does not run on the calibration inputs: {ort_line(error)}"
        ) from error


def all_outputs(
    model: ModelProto, fed: Sequence[Mapping[str, np.ndarray]]
) -> list[list[np.ndarray]]:
    """Return the model's outputs on each batch, with the optimizations that users have."""
    opened = session(model, fast=True)
    names = [value.name for value in model.graph.output]
    return [run(opened, names, batch) for batch in fed]


def output_change(
    expected: Sequence[Sequence[np.ndarray]], got: Sequence[Sequence[np.ndarray]]
) -> float:
    """Return the mean squared change of the float outputs, relative to their variance.

    Relative to their mean square, where they are all but constant, as one number for a call is.

    Args:
        expected: the outputs of each batch.
        got: those of another model on the same batches.

    Returns:
        The change of the output that changes most; infinite when one is not finite any more.
        What was not finite before is not judged.

    Raises:
        TechniqueError: the shapes differ.
    """
    worst = 0.0
    for before, after in zip(zip(*expected, strict=True), zip(*got, strict=True), strict=True):
        one, two = (np.concatenate([_floats(part) for part in parts]) for parts in (before, after))
        if one.shape != two.shape:
            raise TechniqueError("the outputs have other shapes than the source's")
        judged = np.isfinite(one)
        if not (np.isfinite(two) | ~judged).all():
            return float(np.inf)
        one, two = one[judged].astype(np.float64), two[judged].astype(np.float64)
        if one.size:
            spread, energy = float(one.var()), float((one**2).mean())
            if spread < _CONSTANT * energy:
                spread = energy
            worst = max(worst, float(((one - two) ** 2).mean()) / max(spread, 1e-30))
    return worst


def _floats(output: object) -> np.ndarray:
    """Return the floats of an output in one row: of a tensor, a sequence, or a sequence of maps."""
    if isinstance(output, np.ndarray):
        return output.ravel() if output.dtype.kind == "f" else np.zeros(0)
    parts = list(output.values()) if isinstance(output, dict) else output
    if not isinstance(parts, list):
        return np.asarray([parts] if isinstance(parts, float) else [], np.float64)
    return np.concatenate([np.zeros(0), *map(_floats, parts)])


def share_changed(
    expected: Sequence[Sequence[np.ndarray]], got: Sequence[Sequence[np.ndarray]]
) -> float | None:
    """Return the share of the values that differ of outputs that are no floats.

    Args:
        expected: the outputs of each batch.
        got: those of another model on the same batches.

    Returns:
        That of the output with the largest; None where all are floats.

    Raises:
        TechniqueError: the shapes differ.
    """
    worst = None
    for before, after in zip(zip(*expected, strict=True), zip(*got, strict=True), strict=True):
        one, two = (np.concatenate([_no_floats(part) for part in parts])
                    for parts in (before, after))  # fmt: skip
        if one.shape != two.shape:
            raise TechniqueError("the outputs have other shapes than the source's")
        if one.size:
            worst = max(worst or 0.0, float((one != two).mean()))
    return worst


def _no_floats(output: object) -> np.ndarray:
    """Return the values of an output that are no floats in one row, as :func:`_floats` does."""
    if isinstance(output, np.ndarray):
        return output.ravel() if output.dtype.kind != "f" else np.zeros(0, bool)
    parts = list(output.values()) if isinstance(output, dict) else output
    if isinstance(parts, list):
        return np.concatenate([np.zeros(0, bool), *map(_no_floats, parts)])
    return np.asarray([output] if isinstance(output, int | str) else [], object)


def told_change(
    before: ModelProto, after: ModelProto, calibration: Mapping[str, np.ndarray]
) -> str:
    """Say how far the outputs are from what they were on a few calibration rows.

    Returns:
        A sentence, or why it is not known.

    Raises:
        TechniqueError: the first model runs on the rows and the second does not.
    """
    try:
        given = as_rows(before, calibration)
        fed = list(batches(before, given, size=_AT_ONCE, rows=_TOLD))
        wanted = all_outputs(before, fed)
    except TechniqueError as error:
        return f"by how much the outputs change is not known: {error}"
    got, rows = all_outputs(after, fed), min(_TOLD, given.count)
    on = f"on {rows} calibration row{'s' if rows > 1 else ''}"
    try:
        change, share = output_change(wanted, got), share_changed(wanted, got)
    except TechniqueError as error:  # as many boxes as there are found
        return f"{error} {on}"
    told = []
    floats = [_floats(output) for call in wanted for output in call]
    if any(np.isfinite(array).any() for array in floats):
        told.append(f"the outputs' error {on} is {change:.3g} of their variance")
    elif any(array.size for array in floats):
        told.append(f"no output is finite {on}, so that its error is not known")
    if share is not None:
        told.append(f"{share:.3g} of the values that are no floats differ {on}")
    return ", and ".join(told)


def check_calibration(model: ModelProto, calibration: Mapping[str, np.ndarray] | None) -> Rows:
    """Return the calibration inputs that the model takes, which also know how it takes them.

    Raises:
        TechniqueError: there are none, or one that the model needs is missing.
    """
    if not calibration:
        raise TechniqueError("needs calibration inputs, and there are none (data.calibration)")
    return as_rows(model, calibration)


def as_rows(model: ModelProto, inputs: Mapping[str, np.ndarray]) -> Rows:
    """Return the inputs that a model takes as rows, and find out how it takes plain arrays.

    Raises:
        TechniqueError: one that the model needs is missing; it cannot be told which axis of an
            array are the rows; or there are none.
    """
    wanted = declared_inputs(model)
    missing = [name for name in wanted if name not in inputs]
    if missing:
        raise TechniqueError(
            f"the calibration data lack the model's input {missing[0]!r}; "
            f"they have {', '.join(inputs)}"
        )
    if isinstance(inputs, Rows):
        return _some(inputs.only(list(wanted)))
    arrays = {name: inputs[name] for name in wanted}
    arrays |= {name: np.asarray(one) for name, one in arrays.items() if np.isscalar(one)}
    every = list(arrays.values())
    count = likely_count([array for array in every if array.ndim], every) or 0
    try:
        placed = place(arrays, count, wanted, declared_outputs(model))
    except DataError as error:
        raise TechniqueError(f"the calibration data do not fit the model: {error}") from error
    found = _some(Rows(placed.inputs, placed.shared, placed.layout))
    layout = replace(found.layout, most=most_rows(model, found))
    return Rows(found.inputs, found.shared, layout)


def _some(rows: Rows) -> Rows:
    if not rows.count:
        raise TechniqueError("the calibration data have no rows (data.calibration)")
    return rows


def fixed_batch(model: ModelProto) -> int | None:
    """Return the batch size that the model's inputs are fixed to, or None when it is open."""
    for value in model.graph.input:
        dims = value.type.tensor_type.shape.dim
        if dims and dims[0].dim_value > 0:
            return int(dims[0].dim_value)
    return None


def batches(
    model: ModelProto, inputs: Mapping[str, np.ndarray], *, size: int = 32, rows: int | None = None
) -> Iterator[dict[str, np.ndarray]]:
    """Yield the inputs in batches that the model can take; rows that fill no batch are left out.

    Args:
        model: the model.
        inputs: inputs by name, as rows or as plain arrays (:func:`as_rows`).
        size: rows per batch at most, where the model does not fix them.
        rows: at most so many rows.

    Raises:
        TechniqueError: as :func:`as_rows`.
    """
    for call in as_rows(model, inputs).calls(size, limit=rows):
        yield call.feed


def probe(
    model: ModelProto, calibration: Mapping[str, np.ndarray] | None, seed: int
) -> Mapping[str, Any]:
    """Return inputs to compare two models on: a few calibration rows, or else random ones.

    What cannot be invented is left out: the model does not run without it.
    """
    if calibration:
        return next(batches(model, calibration, size=4))
    rng = np.random.default_rng(seed)
    held = {tensor.name for tensor in model.graph.initializer}
    invented = {v.name: _invented(v.type, rng) for v in model.graph.input if v.name not in held}
    return {name: value for name, value in invented.items() if value is not None}


def _invented(kind: TypeProto, rng: np.random.Generator) -> Any:
    """Return a value of a type: a tensor, or a list of two for a sequence; None for a map."""
    if kind.HasField("optional_type"):
        return _invented(kind.optional_type.elem_type, rng)
    if kind.HasField("sequence_type"):
        inner = kind.sequence_type.elem_type
        items = [_invented(inner, rng), _invented(inner, rng)]
        return None if items[0] is None else items
    if not kind.HasField("tensor_type"):
        return None
    tensor = kind.tensor_type
    shape = [d.dim_value if d.dim_value > 0 else _OPEN_SIZE for d in tensor.shape.dim]
    if tensor.elem_type == TensorProto.UNDEFINED:
        return None
    dtype = helper.tensor_dtype_to_np_dtype(tensor.elem_type)
    if dtype.kind == "f":
        return rng.normal(size=shape).astype(dtype)
    return np.full(shape, "1", dtype) if dtype.kind == "O" else np.ones(shape, dtype)


def check_unchanged(
    before: ModelProto,
    after: ModelProto,
    calibration: Mapping[str, np.ndarray] | None,
    seed: int,
    doing: str,
    why: str = "",
) -> None:
    """Refuse what must not change any output, and does; see :func:`largest_change`.

    Args:
        before: a model.
        after: what was made of it.
        calibration: calibration inputs, or None.
        seed: draws invented inputs.
        doing: what was done, as the subject of a sentence.
        why: what such a change means, as the end of the sentence.

    Raises:
        TechniqueError: an output changes by more than rounding, or a model does not run.
    """
    name, change = largest_change(before, after, calibration, seed)
    if change > _TOLERANCE:
        raise TechniqueError(f"{doing} changes output {name!r} by {change:.2g}{why}")


def largest_change(
    before: ModelProto,
    after: ModelProto,
    calibration: Mapping[str, np.ndarray] | None,
    seed: int,
) -> tuple[str, float]:
    """Run two models on :func:`probe` and return the float output that differs most, and by what.

    The difference is relative to the output's largest finite value, infinite where shapes differ
    or only one of both is finite, and NaN where the first model does not take invented inputs, so
    that nothing can be learnt. Of outputs that are no floats, it is the share that differs.

    Raises:
        TechniqueError: a model is refused, or does not run on calibration inputs.
    """
    feed = probe(before, calibration, seed)
    names = [value.name for value in before.graph.output]
    try:
        expected = run(session(before), names, feed)
    except TechniqueError:
        if calibration:
            raise
        return "", np.nan
    given = run(session(after), names, feed)
    name, most = "", 0.0
    for here, one, two in zip(names, expected, given, strict=True):
        worst = _change(one, two)
        if not worst <= most:
            name, most = here, worst
    return name, most


def _change(one: Any, two: Any) -> float:
    """Return what :func:`largest_change` does of one output: a tensor, a sequence or a map."""
    if isinstance(one, dict) and isinstance(two, dict):
        one, two = list(one.items()), list(two.items())
    if isinstance(one, list | tuple):
        if type(one) is not type(two) or len(one) != len(two):
            return float(np.inf)
        return max(map(_change, one, two), default=0.0)
    if isinstance(two, list | dict):
        return float(np.inf)
    one, two = np.asarray(one), np.asarray(two)
    if one.shape != two.shape:
        return float(np.inf)
    with np.errstate(invalid="ignore"):
        differ = (one != two) & ~((one != one) & (two != two))  # NaN stays NaN
    if one.dtype.kind != "f":
        return float(differ.mean()) if one.size else 0.0
    if not (np.isfinite(one) & np.isfinite(two))[differ].all():
        return float(np.inf)
    scale = float(np.abs(one[np.isfinite(one)]).max(initial=0))
    change = np.abs(one[differ].astype(np.float64) - two[differ]).max(initial=0)
    return float(change) / max(scale, _SMALLEST)
