"""Small helpers on ONNX graphs that the techniques share."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import (
    AttributeProto,
    GraphProto,
    ModelProto,
    NodeProto,
    TensorProto,
    numpy_helper,
)

from mlflow_compress.errors import TechniqueError

__all__ = [
    "FLOATS",
    "Use",
    "Weight",
    "attributes_of",
    "captured_reads",
    "channel_axis",
    "clone",
    "float_weights",
    "inferred",
    "initializers",
    "node_label",
    "not_single",
    "opset",
    "prepend_nodes",
    "refuse_broken_weights",
    "set_initializer",
    "sort_nodes",
    "subgraphs",
    "unique_name",
    "uses",
    "value_names",
    "walk_graphs",
    "walk_nodes",
    "weight_inputs",
    "why_no_weights",
]

FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE, TensorProto.BFLOAT16)

_WEIGHT_INPUTS = {
    "Conv": (1,),
    "ConvTranspose": (1,),
    "Gemm": (0, 1),
    "MatMul": (0, 1),
    "LSTM": (1, 2),
    "GRU": (1, 2),
    "RNN": (1, 2),
}
"""The inputs of each operator that hold its weights when they are initializers."""


@dataclass(frozen=True)
class Use:
    """One place where a value goes into a node."""

    node: NodeProto
    index: int


@dataclass(frozen=True)
class Weight:
    """A float initializer that at least one operator uses as its weight."""

    name: str
    tensor: TensorProto
    uses: tuple[Use, ...]

    @property
    def size(self) -> int:
        """Number of elements."""
        return int(np.prod(self.tensor.dims, dtype=np.int64))

    def array(self) -> np.ndarray:
        """The values, in a copy."""
        return np.array(numpy_helper.to_array(self.tensor))


def clone(model: ModelProto) -> ModelProto:
    """Return a deep copy; techniques never change the model they are given."""
    copy = ModelProto()
    copy.CopyFrom(model)
    return copy


def subgraphs(node: NodeProto) -> Iterator[GraphProto]:
    """Yield the graphs a node holds directly (the branches of an If, the body of a Loop)."""
    for attribute in node.attribute:
        if attribute.type == AttributeProto.GRAPH:
            yield attribute.g
        elif attribute.type == AttributeProto.GRAPHS:
            yield from attribute.graphs


def walk_graphs(graph: GraphProto) -> Iterator[GraphProto]:
    """Yield a graph and every graph nested in it, outer before inner."""
    yield graph
    for node in graph.node:
        for inner in subgraphs(node):
            yield from walk_graphs(inner)


def walk_nodes(graph: GraphProto) -> Iterator[NodeProto]:
    """Yield every node of a graph and of the graphs nested in it."""
    for inner in walk_graphs(graph):
        yield from inner.node


def initializers(model: ModelProto) -> dict[str, TensorProto]:
    """Return the main graph's initializers by name."""
    return {tensor.name: tensor for tensor in model.graph.initializer}


def uses(model: ModelProto) -> dict[str, list[Use]]:
    """Return where each value is used, nested graphs included."""
    found: dict[str, list[Use]] = defaultdict(list)
    for node in walk_nodes(model.graph):
        for index, name in enumerate(node.input):
            if name:
                found[name].append(Use(node, index))
    return found


def float_weights(model: ModelProto, *, min_size: int = 1) -> list[Weight]:
    """Return the float initializers used as weights, in the order in which they are stored.

    Weights are those of Conv, ConvTranspose, Gemm, MatMul, LSTM, GRU and RNN with at least
    ``min_size`` elements; biases, embeddings and normalisation parameters are not among them.
    """
    where = uses(model)
    found = []
    for tensor in model.graph.initializer:
        if tensor.data_type not in FLOATS or len(tensor.dims) < 2:
            continue
        roles = tuple(
            use for use in where.get(tensor.name, ()) if use.index in weight_inputs(use.node)
        )
        weight = Weight(tensor.name, tensor, roles)
        if roles and weight.size >= max(min_size, 1):
            found.append(weight)
    return found


def refuse_broken_weights(model: ModelProto) -> None:
    """Refuse weights that are not finite: no rounding is right for them, and all would give some.

    Raises:
        TechniqueError: names the weight and how many values are not finite.
    """
    for weight in float_weights(model):
        array = weight.array()
        broken = array.size - int(np.isfinite(array.astype(np.float32)).sum())
        if broken:
            raise TechniqueError(
                f"weight {weight.name!r} has {broken} values that are not finite, of "
                f"{array.size}: mend the model where it was trained or exported"
            )


def not_single(model: ModelProto) -> str:
    """Say which weight has another type than float32, and what to do; empty where all have it."""
    for weight in float_weights(model):
        if weight.tensor.data_type != TensorProto.FLOAT:
            kind = TensorProto.DataType.Name(weight.tensor.data_type).lower()
            return f"weight {weight.name!r} is {kind} (export the model in float32)"
    return ""


def why_no_weights(model: ModelProto) -> str:
    """Say why a model may have no weights of the wanted kind, and what to do."""
    if model.functions:
        return "functions of the model hold them: let step fold come first"
    return "is the model quantized already?"


def weight_inputs(node: NodeProto) -> tuple[int, ...]:
    """Return which inputs of a node are its weights when they are initializers."""
    return _WEIGHT_INPUTS.get(node.op_type, ())


def set_initializer(tensor: TensorProto, array: np.ndarray) -> None:
    """Overwrite a tensor's values in place; the dtype it has is kept."""
    dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)
    tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(array, dtype), tensor.name))


def sort_nodes(graph: GraphProto) -> None:
    """Put a graph's nodes into an order in which each comes after what it reads, stably.

    In a graph with a circle there is none: its nodes come in some order.
    """
    made_by = {name: i for i, node in enumerate(graph.node) for name in node.output if name}
    reads = [
        sorted({made_by[name] for name in captured_reads(n) if name in made_by}) for n in graph.node
    ]
    order: list[int] = []
    placed: set[int] = set()
    begun: set[int] = set()
    for start in range(len(graph.node)):
        stack = [start]
        while stack:
            index = stack[-1]
            begun.add(index)
            waiting = [i for i in reads[index] if i not in placed and i not in begun]
            if index in placed or not waiting:
                stack.pop()
                if index not in placed:
                    placed.add(index)
                    order.append(index)
            else:
                stack.extend(reversed(waiting))
    if order != list(range(len(order))):
        nodes = [NodeProto() for _ in order]
        for copy, index in zip(nodes, order, strict=True):
            copy.CopyFrom(graph.node[index])
        del graph.node[:]
        graph.node.extend(nodes)


def captured_reads(node: NodeProto) -> set[str]:
    """Return the values that a node reads, those that its nested graphs capture included."""
    names = set(node.input)
    for inner in subgraphs(node):
        read = {value.name for value in inner.output}
        for nested in inner.node:
            read |= captured_reads(nested)
        own = {value.name for value in (*inner.input, *inner.initializer)}
        names |= read - own.union(*(nested.output for nested in inner.node))
    return names


def opset(model: ModelProto) -> int:
    """Return the version of the standard operators that the model imports."""
    return max(
        (entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")),
        default=1,
    )


def prepend_nodes(graph: GraphProto, nodes: Sequence[NodeProto]) -> None:
    """Put nodes that read only initializers in front of a graph's nodes, in place."""
    rest = GraphProto()
    rest.node.extend(graph.node)
    del graph.node[:]
    graph.node.extend([*nodes, *rest.node])


def value_names(model: ModelProto) -> set[str]:
    """Return the names of all values, those of inputs and of nested graphs too.

    A name that is made up must be none of them: an initializer with an input's name is its
    default, and a value of a nested graph hides, or is refused beside, one of the same name.
    """
    names = {""}
    for graph in walk_graphs(model.graph):
        names.update(value.name for value in (*graph.input, *graph.output))
        names.update(tensor.name for tensor in graph.initializer)
        names.update(sparse.values.name for sparse in graph.sparse_initializer)
        for node in graph.node:
            names.update(node.input)
            names.update(node.output)
    return names


def unique_name(wanted: str, taken: set[str]) -> str:
    """Return ``wanted``, or the first of ``wanted_1``, ``wanted_2`` … that is free; takes it."""
    name, count = wanted, 0
    while name in taken:
        count += 1
        name = f"{wanted}_{count}"
    taken.add(name)
    return name


def attributes_of(node: NodeProto) -> dict[str, Any]:
    """Return a node's attributes by name; texts are bytes."""
    return {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}


def node_label(node: NodeProto) -> str:
    """Name a node for a person: its operator and its name, or its first output."""
    name = node.name or next((output for output in node.output if output), "?")
    return f"{node.op_type} {name!r}"


def inferred(model: ModelProto, *, data_prop: bool = False) -> ModelProto:
    """Return a model with the shapes that onnx finds; as it is, where onnx stumbles over it.

    What is wrong with the model, whoever runs it says.
    """
    try:
        return onnx.shape_inference.infer_shapes(model, data_prop=data_prop)
    except (RuntimeError, ValueError, onnx.shape_inference.InferenceError):
        return model


def channel_axis(weight: Weight) -> int:
    """Return the axis of a weight tensor along which its outputs lie."""
    node, index = weight.uses[0].node, weight.uses[0].index
    if node.op_type in ("LSTM", "GRU", "RNN", "ConvTranspose"):
        return 1
    if node.op_type == "MatMul":
        return len(weight.tensor.dims) - 1 if index == 1 else len(weight.tensor.dims) - 2
    if node.op_type == "Gemm":
        flag = "transB" if index == 1 else "transA"
        transposed = any(a.name == flag and a.i for a in node.attribute)
        return int(transposed != (index == 1))
    return 0
