"""Raises a model's opset where a file format or a technique needs a later one.

onnx's version converter is not trusted: what it makes is run beside the source.
"""

from collections.abc import Mapping

import numpy as np
from onnx import (
    ModelProto,
    NodeProto,
    checker,
    helper,
    numpy_helper,
    shape_inference,
    version_converter,
)

from mlflow_compress.errors import TechniqueError
from mlflow_compress.packed.onnx.inlining import inline_functions
from mlflow_compress.techniques.graph.check import refuse_new_problem
from mlflow_compress.techniques.graph.running import largest_change, probe, run, session
from mlflow_compress.techniques.graph.walk import (
    clone,
    initializers,
    node_label,
    opset,
    walk_graphs,
    walk_nodes,
)

__all__ = ["raise_opset"]

_RESIZE, _INTERPOLATES = 11, ("Resize", "Upsample")
"""Until this opset, output positions were input positions times the scale, and nothing else."""

_ROUNDING = 1e-4
"""Of an output's largest value: kernels of two versions may sum in another order."""

_WITHOUT_INPUTS = 4
"""The first IR version in which weights need not be inputs; onnxruntime never asked for it."""

_ERRORS = (
    RuntimeError,
    TechniqueError,
    checker.ValidationError,
    shape_inference.InferenceError,
    version_converter.ConvertError,
)


def raise_opset(
    model: ModelProto,
    least: int,
    calibration: Mapping[str, np.ndarray] | None = None,
    *,
    seed: int = 0,
    strict: bool = False,
) -> ModelProto:
    """Return the model with an opset of at least ``least``: the model itself if it has that.

    Args:
        model: the model.
        least: the opset that is needed.
        calibration: inputs on which both are run; invented ones where there are none.
        seed: draws invented inputs.
        strict: refuse what does not run on invented inputs, so that it cannot be compared.

    Raises:
        TechniqueError: onnx cannot convert the model, or what it makes computes something else;
            names both opsets, and the operator or the reason.
    """
    version = opset(model)
    if version >= least:
        return model
    try:
        plain = inline_functions(model, convert_version=True)
        plain.ir_version = max(plain.ir_version, _WITHOUT_INPUTS)
        made = version_converter.convert_version(plain, least)
        _keep_resizing(plain, made)
        refuse_new_problem(plain, made, "what it makes is not valid", strict=True)
    except _ERRORS as error:
        raise TechniqueError(
            f"opset {least} is needed, and onnx cannot convert this model from opset {version}: "
            f"{_line(error)} (pack compact, or export it with opset {least} or later)"
        ) from error
    del made.graph.value_info[:]
    made.graph.value_info.extend(plain.graph.value_info)
    problem = _difference(model, made, calibration, seed, strict)
    if problem:
        raise TechniqueError(
            f"opset {least} is needed, and onnx does not convert this model faithfully from opset "
            f"{version}: {problem} (pack compact, or export it with opset {least} or later)"
        )
    return made


def _keep_resizing(before: ModelProto, after: ModelProto) -> None:
    """Let images be resized as before opset 11; the converter takes that version's defaults."""
    if opset(before) >= _RESIZE:
        return
    old = {n.output[0]: n for n in walk_nodes(before.graph) if n.op_type in _INTERPOLATES}
    held = {t.name: t for graph in walk_graphs(before.graph) for t in graph.initializer}
    for node in walk_nodes(after.graph):
        if node.op_type != "Resize" or node.output[0] not in old:
            continue
        source = old[node.output[0]]
        given = {a.name: helper.get_attribute_value(a) for a in source.attribute}
        scales = given.get("scales")
        if scales is None and len(source.input) > 1 and source.input[1] in held:
            scales = numpy_helper.to_array(held[source.input[1]])
        shrinks = scales is not None and float(np.max(scales)) <= 1
        told = {
            "coordinate_transformation_mode": "asymmetric",
            "nearest_mode": "ceil" if shrinks else "floor",  # as onnxruntime does of opset 10
        }
        kept = [attribute for attribute in node.attribute if attribute.name not in told]
        fresh = NodeProto(attribute=kept)
        fresh.attribute.extend(helper.make_attribute(name, value) for name, value in told.items())
        del node.attribute[:]
        node.attribute.extend(fresh.attribute)


def _difference(
    before: ModelProto,
    after: ModelProto,
    calibration: Mapping[str, np.ndarray] | None,
    seed: int,
    strict: bool,
) -> str:
    """Say what a converted model computes otherwise, empty when it computes the same."""
    try:
        name, change = largest_change(before, after, calibration, seed)
    except TechniqueError as error:
        return str(error)
    if np.isnan(change):
        return "it does not run on invented inputs, so that it cannot be compared" if strict else ""
    if change <= _ROUNDING:
        return ""
    node = _first_changed(before, after, calibration, seed)
    where = f"output {name!r}" if node is None else node_label(node)
    return f"{where} gives something else"


def _first_changed(
    before: ModelProto,
    after: ModelProto,
    calibration: Mapping[str, np.ndarray] | None,
    seed: int,
) -> NodeProto | None:
    """Return the first node of the main graph of which a converted model gives something else."""
    kept = {name for node in after.graph.node for name in node.output if name}
    held = set(initializers(before))
    made_by = {
        name: node
        for node in before.graph.node
        for name in node.output
        if name in kept and name not in held
    }
    feed = probe(before, calibration, seed)
    for name, node in made_by.items():
        try:
            one, two = (run(session(_tapped(m, name)), [name], feed)[0] for m in (before, after))
        except TechniqueError:
            continue
        if not (np.shape(one) == np.shape(two) and _same(np.asarray(one), np.asarray(two))):
            return node
    return None


def _tapped(model: ModelProto, name: str) -> ModelProto:
    """Return the model with one value as its only output."""
    model = clone(model)
    del model.graph.output[:]
    model.graph.output.add().name = name
    return model


def _same(one: np.ndarray, two: np.ndarray) -> bool:
    if one.dtype.kind != "f":
        return bool((one == two).all())
    scale = float(np.abs(one).max(initial=0))
    return np.allclose(one, two, rtol=0, atol=_ROUNDING * max(scale, 1e-3), equal_nan=True)


def _line(error: Exception) -> str:
    return (str(error).strip() or "no reason given").splitlines()[0]
