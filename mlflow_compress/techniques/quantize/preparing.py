"""Prepares graphs for onnxruntime's quantizers, which take some of them for others.

They leave alpha and beta of a Gemm out of the weights, round one weight of two channel axes along
one of them, take values that a branch reads away with the Relu that made them, give names that the
model has, and let a mask of infinities set a range.
"""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

from mlflow_compress.packed.onnx.inlining import inline_functions
from mlflow_compress.techniques.fitting.least_squares import tapped
from mlflow_compress.techniques.graph.opset import raise_opset
from mlflow_compress.techniques.graph.running import run, session
from mlflow_compress.techniques.graph.walk import (
    FLOATS,
    Use,
    attributes_of,
    captured_reads,
    initializers,
    set_initializer,
    subgraphs,
    unique_name,
    uses,
    value_names,
    walk_graphs,
    walk_nodes,
    weight_inputs,
)

__all__ = ["Prepared", "observed", "prepared", "say_types", "unfit_nodes"]

_MIN_OPSET = 13
"""The first version whose DequantizeLinear has an axis, which per-channel scales need."""

_STANDARD = ("", "ai.onnx", "com.microsoft")

_MADE_UP = ("quantized", "scale", "zero_point", "QuantizeLinear", "DequantizeLinear", "Transposed",
            "QuantizeLinear_Output", "QuantizeLinear_Input", "DequantizeLinear_Output",
            "DequantizeLinear_Input", "output_quantized", "MatMul_quant", "quant")  # fmt: skip
"""What the quantizers append to names."""

_LARGE, _TOO_WIDE = 1e3, 1e4
"""Values beyond the first, and so many times as large as the small ones of their tensor, are a
mask's: 256 levels from them to the others leave one level to all others."""

_LEAST, _MOST = 1e-30, 1e37
"""Between them steps of a 255th are numbers of single precision, which int8 is scaled in."""


@dataclass(frozen=True)
class Prepared:
    """A model that computes what the one given does, and that a quantizer understands.

    Attributes:
        model: the model; every node has a name of its own.
        origin: the given model's initializer of each one that is new.
        exclude: names of nodes that have to stay in float.
    """

    model: ModelProto
    origin: Mapping[str, str]
    exclude: tuple[str, ...]


def prepared(model: ModelProto) -> Prepared:
    """Return a model for onnxruntime's quantizers.

    Raises:
        TechniqueError: its operators are too old, and onnx cannot convert them.
    """
    model = inline_functions(model)
    model = raise_opset(model, _MIN_OPSET)
    taken = value_names(model)
    names: set[str] = set()
    for index, node in enumerate(walk_nodes(model.graph)):
        node.name = unique_name(node.name or f"{node.op_type}_{index}", names)
    origin = _rename_clashes(model, taken)
    _own_weights(model, taken, origin)
    _own_biases(model, taken, origin)
    left = _stretch_biases(model, taken, origin)
    left += [node.name for node in model.graph.node if node.op_type == "Gemm" and not _plain(
        model, node, taken, origin)]  # fmt: skip
    left += [node.name for node in model.graph.node if node.domain not in _STANDARD]
    _keep_outside(model, taken, names)
    return Prepared(model, origin, tuple(left))


def observed(model: ModelProto, fed: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return the float values of the main graph on a batch, inputs and weights among them.

    Args:
        model: the model.
        fed: a batch of calibration inputs.
    """
    held = initializers(model)
    made = [name for node in model.graph.node for name in node.output if name]
    wanted = [name for name in made if name not in held]
    values: dict[str, Any] = {n: numpy_helper.to_array(tensor) for n, tensor in held.items()
                              if tensor.data_type in FLOATS}  # fmt: skip
    values |= fed
    if wanted:
        values |= dict(zip(wanted, run(session(tapped(model, wanted)), wanted, fed), strict=True))
    arrays = {name: value for name, value in values.items() if isinstance(value, np.ndarray)}
    return {name: a for name, a in arrays.items() if a.dtype.kind == "f" or name in held}


def say_types(model: ModelProto, values: Mapping[str, np.ndarray]) -> None:
    """Say of which type values are, in place: what a quantizer does not infer it does not see."""
    known = {value.name for value in (*model.graph.input, *model.graph.output)}
    known |= {value.name for value in model.graph.value_info} | initializers(model).keys()
    for name, value in values.items():
        if name not in known:
            kind = helper.np_dtype_to_tensor_dtype(value.dtype)
            model.graph.value_info.append(helper.make_tensor_value_info(name, kind, None))


def unfit_nodes(model: ModelProto, values: Mapping[str, np.ndarray]) -> tuple[str, ...]:
    """Return the nodes that read or give values which int8 cannot stand for.

    No range of 256 levels will do for values that are not finite on some row, for masks of large
    numbers, and for what lies at the ends of single precision; and others than single precision no
    int8 operator takes.

    Args:
        model: the model.
        values: what :func:`observed` gives.
    """
    unfit = {n for n, array in values.items() if array.dtype != np.float32 or _beyond(array)}
    empty = {name for name, array in values.items() if not array.size}
    given = empty & initializers(model).keys()  # an old Resize has one that says nothing
    return tuple(
        node.name
        for node in model.graph.node
        if (unfit | (empty if weight_inputs(node) else empty - given)).intersection(
            (*node.input, *node.output)
        )
    )


def _beyond(array: np.ndarray) -> bool:
    """Whether values are not finite, or so large that nothing is left of the others."""
    sizes = np.abs(array[array != 0].astype(np.float64))
    if not sizes.size:
        return False
    most = float(sizes.max())
    if not _LEAST < most < _MOST:
        return True
    return most >= _LARGE and most >= _TOO_WIDE * float(np.quantile(sizes, 0.1))


def _rename_clashes(model: ModelProto, taken: set[str]) -> dict[str, str]:
    """Rename all weights and values of which a quantizer would make names that there are.

    Returns:
        The old name of each new initializer.
    """
    graph = model.graph
    outside = {value.name for value in (*graph.input, *graph.output)}
    held = [tensor.name for tensor in graph.initializer]
    made = [name for node in graph.node for name in node.output]
    fresh = {
        name: _own_name(name, taken)
        for name in dict.fromkeys((*held, *made))
        if name and name not in outside and _clashes(name, taken)
    }
    if not fresh:
        return {}
    for tensor in graph.initializer:
        tensor.name = fresh.get(tensor.name, tensor.name)
    for node in walk_nodes(graph):
        node.input[:] = [fresh.get(name, name) for name in node.input]
        node.output[:] = [fresh.get(name, name) for name in node.output]
    for inner in walk_graphs(graph):
        for value in (*inner.output, *inner.value_info):
            value.name = fresh.get(value.name, value.name)
    return {fresh[name]: name for name in held if name in fresh}


def _clashes(name: str, taken: set[str]) -> bool:
    return any(f"{name}_{end}" in taken for end in _MADE_UP)


def _own_name(name: str, taken: set[str]) -> str:
    """Return a new name like the given one, of which a quantizer may make others; takes it."""
    own = unique_name(f"{name}_own", taken)
    while _clashes(own, taken):
        own = unique_name(f"{name}_own", taken)
    return own


def _role(use: Use) -> tuple[str, int]:
    """Return what decides how a quantizer rounds a weight: the operator and the channels' axis."""
    node, index = use.node, use.index
    if node.op_type == "Conv" and index == 1:
        return "weight", 0
    if node.op_type == "ConvTranspose" and index == 1:
        return "weight", 1
    if node.op_type == "Gemm" and index == 1:
        return "weight", 0 if attributes_of(node).get("transB", 0) else 1
    if node.op_type == "MatMul" and index == 1:
        return "weight", 1
    return node.op_type, index


def _own_weights(model: ModelProto, taken: set[str], origin: dict[str, str]) -> None:
    """Give each way in which a weight is used a tensor of its own."""
    held = initializers(model)
    roles: dict[str, dict[tuple[str, int], list[Use]]] = defaultdict(lambda: defaultdict(list))
    for node in model.graph.node:
        for index, name in enumerate(node.input):
            if name in held and held[name].data_type in FLOATS and len(held[name].dims) > 1:
                use = Use(node, index)
                roles[name][_role(use)].append(use)
    for name, ways in roles.items():
        for some in list(ways.values())[1:]:
            copy = _copied(model, held[name], taken, origin)
            for use in some:
                use.node.input[use.index] = copy.name


def _copied(
    model: ModelProto, tensor: TensorProto, taken: set[str], origin: dict[str, str]
) -> TensorProto:
    name = _own_name(tensor.name, taken)
    origin[name] = origin.get(tensor.name, tensor.name)
    copy = model.graph.initializer.add()
    copy.CopyFrom(tensor)
    copy.name = name
    return copy


def _own_biases(model: ModelProto, taken: set[str], origin: dict[str, str]) -> None:
    """Give each node a bias of its own: onnxruntime.quantization fails on shared ones."""
    held = initializers(model)
    seen: set[str] = set()
    for node in model.graph.node:
        if node.op_type not in ("Conv", "ConvTranspose", "Gemm") or len(node.input) < 3:
            continue
        name = node.input[2]
        if name in seen and name in held:
            node.input[2] = _copied(model, held[name], taken, origin).name
        seen.add(name)


def _stretch_biases(model: ModelProto, taken: set[str], origin: dict[str, str]) -> list[str]:
    """Let each constant bias of a Gemm have one value per output: quantizers know no others.

    Returns:
        The nodes whose bias is another one for each row.
    """
    held, left = initializers(model), []
    for node in model.graph.node:
        if node.op_type != "Gemm" or len(node.input) < 3 or node.input[2] not in held:
            continue
        bias, weight = held[node.input[2]], held.get(node.input[1])
        if len(bias.dims) > 1 and bias.dims[0] != 1:
            left.append(node.name)
        elif weight is not None:
            width = weight.dims[0 if attributes_of(node).get("transB", 0) else 1]
            if list(bias.dims) != [width]:
                copy = _copied(model, bias, taken, origin)
                array = np.broadcast_to(numpy_helper.to_array(bias).ravel(), width)
                copy.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(array), copy.name))
                node.input[2] = copy.name
    return left


def _plain(model: ModelProto, node: NodeProto, taken: set[str], origin: dict[str, str]) -> bool:
    """Put alpha and beta of a Gemm into its weight and bias; False where these are no constants."""
    factors = attributes_of(node)
    where = {"alpha": 1, "beta": 2}
    asked = {name: float(factors[name]) for name in where if factors.get(name, 1.0) != 1.0}
    if asked.keys() == {"beta"} and len(node.input) < 3:
        asked = {}
    held, places = initializers(model), uses(model)
    if any(len(node.input) <= where[n] or node.input[where[n]] not in held for n in asked):
        return False
    for name, factor in asked.items():
        tensor = held[node.input[where[name]]]
        if len(places[tensor.name]) > 1:
            tensor = _copied(model, tensor, taken, origin)
            node.input[where[name]] = tensor.name
        array = numpy_helper.to_array(tensor)
        set_initializer(tensor, (array * array.dtype.type(factor)).astype(array.dtype))
    kept = [attribute for attribute in node.attribute if attribute.name not in where]
    fresh = NodeProto(attribute=kept)
    del node.attribute[:]
    node.attribute.extend(fresh.attribute)
    return True


def _keep_outside(model: ModelProto, taken: set[str], names: set[str]) -> None:
    """Put an Identity between the graph's values and what is outside it, in place.

    A quantizer does not see what nested graphs read; it narrows what only a Relu or a Clip reads to
    what these give, be it an output of the graph; and inputs and outputs cannot be renamed, of
    whose names it would make some that there are.
    """
    graph = model.graph
    nests = [node for node in graph.node if any(subgraphs(node))]
    inside = {name for node in graph.node for name in node.input}
    read = {name for node in nests for name in captured_reads(node)}
    read -= {"", *(name for node in nests for name in node.input)}
    outputs = {value.name for value in graph.output if value.type.HasField("tensor_type")}
    read |= {name for name in outputs if name in inside or _clashes(name, taken)}
    held = initializers(model).keys()
    given = {v.name for v in graph.input if v.type.HasField("tensor_type")} - held
    given = {name for name in given | (held & outputs) if _clashes(name, taken)}
    made = [name for node in graph.node for name in node.output if name in read]
    own = {name: _own_name(name, taken) for name in (*sorted(given), *made)}
    if not own:
        return

    def identity(one: str, other: str) -> NodeProto:
        return helper.make_node("Identity", [one], [other], unique_name(f"{one}_kept", names))

    nodes = [identity(name, own[name]) for name in sorted(given)]
    for node in graph.node:
        node.input[:] = [own.get(name, name) for name in node.input]
        behind = [identity(own[name], name) for name in node.output if name in own]
        node.output[:] = [own.get(name, name) for name in node.output]
        nodes += [node, *behind]
    fresh = GraphProto(node=nodes)
    del graph.node[:]
    graph.node.extend(fresh.node)
