"""Writes weights as integers behind a DequantizeLinear, in the types that ONNX has for them."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from mlflow_compress.techniques.graph.opset import raise_opset
from mlflow_compress.techniques.graph.walk import (
    attributes_of,
    clone,
    prepend_nodes,
    unique_name,
    value_names,
)

__all__ = [
    "Integers",
    "needed_version",
    "raise_version",
    "without_two_bits",
    "write_integers",
]

_AXIS = (13, 0)
"""The first version whose DequantizeLinear has an axis, and the IR version that it needs."""

_BLOCKS = (21, 10)
"""The first with a scale per block, and with integers of 4 bits."""

_TWO_BITS = (25, 13)
"""The first with integers of 2 bits."""


@dataclass(frozen=True)
class Integers:
    """A weight tensor as integers: ``(symbols - zeros) * scales``.

    Attributes:
        symbols: whole numbers in the tensor's shape.
        scales: above zero; broadcast to the tensor's shape.
        axis: the channels' axis.
        kind: the type that they are stored in (a ``TensorProto.DataType``).
        block: how many inputs of a channel share a scale, in tensors of two axes; 0 for all. It
            need not divide the inputs: the last block is then shorter.
        zeros: zero points that broadcast as the scales do; None for none.
    """

    symbols: np.ndarray
    scales: np.ndarray
    axis: int
    kind: int
    block: int = 0
    zeros: np.ndarray | None = None

    def values(self) -> np.ndarray:
        """Return the weights that they stand for."""
        zeros = 0.0 if self.zeros is None else self.zeros
        return np.asarray((self.symbols - zeros) * self.scales)

    def stored(self, values: np.ndarray) -> np.ndarray:
        """Return scales or zero points as DequantizeLinear takes them."""
        shape = list(self.symbols.shape)
        if self.block:
            step = [slice(None)] * 2
            step[1 - self.axis] = slice(None, None, self.block)
            return np.broadcast_to(values, shape)[tuple(step)]
        shape = [n if i == self.axis else 1 for i, n in enumerate(shape)]
        keep = tuple(slice(None) if i == self.axis else slice(0, 1) for i in range(len(shape)))
        return np.broadcast_to(values[keep], shape).ravel()

    @property
    def attributes(self) -> dict[str, int]:
        """The attributes of the DequantizeLinear."""
        if not self.block:
            return {"axis": self.axis}
        return {"axis": 1 - self.axis, "block_size": self.block}


def without_two_bits(model: ModelProto) -> set[str]:
    """Return the values that cannot be integers of 2 bits, for the sake of onnxruntime 1.32.

    It fuses DequantizeLinear and a product with what is stored as [inputs, outputs] into a
    MatMulNBits, which for 2 bits, signed or not, gives wrong results where the number of outputs
    is no multiple of 4.
    """
    return {
        name
        for node in model.graph.node
        if node.op_type == "MatMul"
        or (node.op_type == "Gemm" and not attributes_of(node).get("transB", 0))
        for name in node.input[:2]
    }


def needed_version(kinds: set[int], *, blocks: bool = False) -> tuple[int, int]:
    """Return the opset and the IR version that integers of these types need."""
    if kinds & {TensorProto.INT2, TensorProto.UINT2}:
        return _TWO_BITS
    if blocks or kinds & {TensorProto.INT4, TensorProto.UINT4}:
        return _BLOCKS
    return _AXIS


def raise_version(model: ModelProto, version: tuple[int, int]) -> ModelProto:
    """Return a copy of the model of at least this opset and IR version.

    Raises:
        TechniqueError: its operators are older and onnx cannot convert them.
    """
    made = clone(raise_opset(model, version[0]))
    made.ir_version = max(made.ir_version, version[1])
    return made


def write_integers(
    model: ModelProto, weights: Mapping[str, Integers]
) -> tuple[ModelProto, dict[str, str]]:
    """Put integers, and the nodes that scale them, in the place of weights.

    Returns:
        A new model, and the weight that each new initializer comes from.
    """
    taken = value_names(model)
    origin: dict[str, str] = {}
    nodes: list[NodeProto] = []
    tensors: list[TensorProto] = []
    for tensor in model.graph.initializer:
        integers = weights.get(tensor.name)
        if integers is None:
            tensors.append(tensor)
            continue
        made = _tensors(integers, tensor.name, taken)
        tensors += made
        names = [part.name for part in made]
        origin |= dict.fromkeys(names, tensor.name)
        nodes.append(
            helper.make_node("DequantizeLinear", names, [tensor.name], **integers.attributes)
        )
    result = clone(model)
    del result.graph.initializer[:]
    result.graph.initializer.extend(tensors)
    prepend_nodes(result.graph, nodes)
    return result, origin


def _tensors(integers: Integers, name: str, taken: set[str]) -> list[TensorProto]:
    """Return the integers, their scales and, where there are any, their zero points."""
    dtype = helper.tensor_dtype_to_np_dtype(integers.kind)
    # the narrow types convert from whole numbers only
    wide = np.uint8 if integers.kind in _UNSIGNED else np.int8
    parts = {
        "quantized": integers.symbols.astype(wide).astype(dtype),
        "scale": integers.stored(integers.scales).astype(np.float32),
    }
    if integers.zeros is not None:
        parts["zero_point"] = integers.stored(integers.zeros).astype(wide).astype(dtype)
    return [
        numpy_helper.from_array(np.ascontiguousarray(array), unique_name(f"{name}_{part}", taken))
        for part, array in parts.items()
    ]


_UNSIGNED = (TensorProto.UINT2, TensorProto.UINT4, TensorProto.UINT8)
