"""Walks a model's graphs in the format's order, and takes weights out of them.

The order is the main graph first, then the graphs in attributes of its nodes, node by node, each
with its own inner graphs. ``docs/format.md``, sections 2 and 3.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import onnx
from google.protobuf.message import DecodeError
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, helper

from mlflow_compress.errors import PackedFormatError, SourceError
from mlflow_compress.packed.format import (
    CONSTANT_NODE,
    GRAPH_INPUT,
    HAD_VALUE_INFO,
    HAS_REMAINDER,
    TYPED_DATA,
    Entry,
)
from mlflow_compress.packed.onnx import tensors
from mlflow_compress.packed.onnx.outside import check_text

SMALL_INTEGERS = {TensorProto.INT64, TensorProto.INT32}
SHAPE_ELEMENTS = 64
_WITH_DEFAULTS = 4
_LAST_VERSION = (1 << 31) - 1


@dataclass(frozen=True)
class Weight:
    """A weight that may be packed, with its data, before it is taken out of its graph."""

    name: str
    tensor: TensorProto
    data: bytes
    typed: bool
    position: int
    constant: bool


def graphs(graph: GraphProto) -> Iterator[GraphProto]:
    """This graph and all inside it, in the format's order."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == AttributeProto.GRAPH:
                yield from graphs(attribute.g)
            elif attribute.type == AttributeProto.GRAPHS:
                for inner in attribute.graphs:
                    yield from graphs(inner)


def with_nested(nodes: Iterable[NodeProto]) -> Iterator[NodeProto]:
    """Yield nodes, those of a function for example, each before those of the graphs in it."""
    for node in nodes:
        yield node
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                yield from with_nested(inner.node)


def refuse_malformed(model: ModelProto) -> None:
    """Refuse what a reader would take for another model, or for none.

    Raises:
        SourceError: two values of a graph have one name, a text is none, or the IR version is no
            version.
    """
    check_text(model, "the model")
    if not 0 <= model.ir_version <= _LAST_VERSION:
        raise SourceError(f"the model says IR version {model.ir_version}, which is none: mend it")
    for graph in graphs(model.graph):
        seen: set[str] = set()
        made = (name for node in graph.node for name in node.output)
        for name in (*(tensor.name for tensor in graph.initializer), *made):
            if name and name in seen:
                raise SourceError(
                    f"graph '{graph.name}' has two values named '{name}', which is no valid ONNX "
                    "model: keep one of them (onnx.checker.check_model finds them all)"
                )
            seen.add(name)


def default_inputs(model: ModelProto) -> frozenset[str]:
    """Return the inputs that a caller may leave out, as an initializer gives their value.

    Before IR version 4 every initializer had to be an input, and some exporters list them all to
    this day: where every initializer of two or more axes is an input, none is meant to be given.
    """
    if model.ir_version < _WITH_DEFAULTS:
        return frozenset()
    inputs = {info.name for info in model.graph.input}
    listed = [tensor.name in inputs for tensor in model.graph.initializer if len(tensor.dims) > 1]
    if listed and all(listed):
        return frozenset()
    return frozenset(inputs & {tensor.name for tensor in model.graph.initializer})


def weights(
    graph: GraphProto, left_out: Mapping[int, Callable[[], bytes]] | None = None
) -> Iterator[Weight]:
    """The weights of one graph that the format can hold: initializers, then Constant nodes.

    Integer tensors of a few elements stay in the graph: shape inference reads shapes and axes.

    Args:
        graph: the graph, which must not change while this runs.
        left_out: what gives the raw data of initializers that hold none, by position.
    """
    found: list[tuple[str, TensorProto, int, bool]] = [
        (tensor.name, tensor, position, False)
        for position, tensor in enumerate(graph.initializer)
        if tensor.name
    ]
    for position, node in enumerate(graph.node):
        tensor = tensors.constant_tensor(node)
        if tensor is not None:
            found.append((node.output[0], tensor, position, True))
    for name, tensor, position, constant in found:
        few = tensors.element_count(tensor.dims) <= SHAPE_ELEMENTS
        if not tensors.packable(tensor) or (few and tensor.data_type in SMALL_INTEGERS):
            continue
        ask = None if constant or left_out is None else left_out.get(position)
        data = tensors.raw_data(tensor) if ask is None else (ask(), False)
        if data is not None:
            yield Weight(name, tensor, *data, position, constant)


class Described:
    """What a graph says of its values elsewhere, looked up by name; the graph must not change.

    Args:
        graph: the graph.
    """

    def __init__(self, graph: GraphProto) -> None:
        self.graph = graph
        self.inputs = {info.name: position for position, info in enumerate(graph.input)}
        self.infos = {info.name for info in (*graph.value_info, *graph.output)}


def describe(of: Described, weight: Weight) -> Entry:
    """The directory entry of a weight, without payload; reads the graph, changes nothing."""
    graph = of.graph
    flags, input_position, input_info = 0, 0, b""
    if weight.constant:
        flags |= CONSTANT_NODE
        node = onnx.NodeProto()
        node.CopyFrom(graph.node[weight.position])
        node.ClearField("output")
        tensors.clear_data(node.attribute[0].t)
        remainder = node.SerializeToString(deterministic=True)
    else:
        rest = TensorProto()
        for field, value in weight.tensor.ListFields():
            if field.name in ("doc_string", "metadata_props", "data_location"):
                if isinstance(value, str | int):
                    setattr(rest, field.name, value)
                else:
                    getattr(rest, field.name).extend(value)
        remainder = rest.SerializeToString(deterministic=True)
        if weight.name in of.inputs:
            flags |= GRAPH_INPUT
            input_position = of.inputs[weight.name]
            input_info = graph.input[input_position].SerializeToString(deterministic=True)
    if weight.name in of.infos:
        flags |= HAD_VALUE_INFO
    flags |= weight.typed * TYPED_DATA | bool(remainder) * HAS_REMAINDER
    return Entry(
        flags,
        weight.tensor.data_type,
        tuple(weight.tensor.dims),
        weight.position,
        0,
        0,
        0,
        input_position,
        input_info,
        remainder,
    )


def _drop(repeated: Any, keep: Callable[[int], bool]) -> None:
    """Keep only the messages of a repeated field whose index passes, in order."""
    end = position = len(repeated)
    while position:
        position -= 1
        if keep(position):  # all that goes between two that stay goes at once
            del repeated[position + 1 : end]
            end = position
    del repeated[:end]


def take_out(graph: GraphProto, names: list[str], entries: list[Entry]) -> None:
    """Remove the weights of these entries from their graph and give their value_info."""
    gone = {entry.position for entry in entries if not entry.flags & CONSTANT_NODE}
    _drop(graph.initializer, lambda position: position not in gone)
    nodes = {entry.position for entry in entries if entry.flags & CONSTANT_NODE}
    _drop(graph.node, lambda position: position not in nodes)
    inputs = {entry.input_position for entry in entries if entry.flags & GRAPH_INPUT}
    _drop(graph.input, lambda position: position not in inputs)
    for name, entry in zip(names, entries, strict=True):
        if not entry.flags & HAD_VALUE_INFO:
            graph.value_info.append(helper.make_tensor_value_info(name, entry.dtype, entry.dims))


_Message = TypeVar("_Message", onnx.NodeProto, TensorProto, onnx.ValueInfoProto)


def _parse(kind: type[_Message], data: bytes, name: str) -> _Message:
    try:
        return kind.FromString(data)
    except DecodeError as error:
        raise PackedFormatError(f"tensor '{name}': what is kept of it does not parse") from error


def _restored_tensor(name: str, entry: Entry) -> TensorProto:
    """The tensor of an initializer's entry, without data."""
    tensor = _parse(TensorProto, entry.remainder, name)
    tensors.clear_data(tensor)
    tensor.name = name
    tensor.data_type = entry.dtype
    tensor.dims.extend(entry.dims)
    return tensor


def _restored_node(name: str, entry: Entry) -> onnx.NodeProto:
    """The Constant node of an entry, its tensor without data."""
    node = _parse(onnx.NodeProto, entry.remainder, name)
    node.output.append(name)
    tensor = tensors.constant_tensor(node)
    if tensor is None:
        raise PackedFormatError(f"tensor '{name}': what is kept of it is no Constant node")
    tensors.clear_data(tensor)
    tensor.data_type = entry.dtype
    tensor.dims.extend(entry.dims)
    return node


def _insert(repeated: Any, new: list[tuple[int, str, Any]]) -> None:
    """Insert messages at their final positions, lowest first."""
    for position, name, message in sorted(new, key=lambda item: item[0]):
        if position > len(repeated):
            raise PackedFormatError(f"tensor '{name}': its position {position} does not exist")
        repeated.insert(position, message)


def put_back(
    graph: GraphProto,
    names: list[str],
    entries: list[Entry],
    fill: Callable[[TensorProto, str, Entry], None],
) -> None:
    """Undo :func:`take_out`; ``fill`` puts the data into each tensor, in place.

    Raises:
        PackedFormatError: if the entries do not fit the graph.
    """
    added = [
        name for name, entry in zip(names, entries, strict=True) if not entry.flags & HAD_VALUE_INFO
    ]
    kept = len(graph.value_info) - len(added)
    if [info.name for info in graph.value_info[max(kept, 0) :]] != added:
        raise PackedFormatError(f"graph '{graph.name}': value_info does not fit the weights")
    del graph.value_info[kept:]
    initializers: list[tuple[int, str, TensorProto]] = []
    nodes: list[tuple[int, str, onnx.NodeProto]] = []
    inputs: list[tuple[int, str, onnx.ValueInfoProto]] = []
    for name, entry in zip(names, entries, strict=True):
        if entry.flags & CONSTANT_NODE:
            nodes.append((entry.position, name, _restored_node(name, entry)))
        else:
            initializers.append((entry.position, name, _restored_tensor(name, entry)))
        if entry.flags & GRAPH_INPUT:
            info = _parse(onnx.ValueInfoProto, entry.input_info, name)
            inputs.append((entry.input_position, name, info))
    _insert(graph.initializer, initializers)
    _insert(graph.node, nodes)
    _insert(graph.input, inputs)
    # filled only now: a message with gigabytes of data could not be inserted
    for name, entry in zip(names, entries, strict=True):
        if entry.flags & CONSTANT_NODE:
            tensor = tensors.constant_tensor(graph.node[entry.position])
        else:
            tensor = graph.initializer[entry.position]
        if tensor is None or (not entry.flags & CONSTANT_NODE and tensor.name != name):
            raise PackedFormatError(f"tensor '{name}': another one has its position")
        fill(tensor, name, entry)


def with_payload(entry: Entry, size: int, packed_crc: int, decoded_crc: int) -> Entry:
    """The entry completed by its payload's numbers."""
    return replace(entry, payload_bytes=size, payload_crc=packed_crc, decoded_crc=decoded_crc)


def unused_name(model: ModelProto, wanted: str) -> str:
    """``wanted``, or ``wanted_1``, ``wanted_2``, … if the model uses it already."""
    used: set[str] = set()
    for graph in graphs(model.graph):
        used.update(info.name for info in (*graph.input, *graph.output, *graph.value_info))
        used.update(tensor.name for tensor in graph.initializer)
        for node in graph.node:
            used.update((*node.input, *node.output))
    name, number = wanted, 0
    while name in used:
        number += 1
        name = f"{wanted}_{number}"
    return name
