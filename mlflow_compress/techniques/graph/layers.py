"""Linear layers of an ONNX graph: their weights as matrices, their inputs as rows.

With it, least squares and quantization by calibration data treat Conv, ConvTranspose, Gemm,
MatMul and the matrices inside LSTM, GRU and RNN alike.
"""

import math
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from mlflow_compress.techniques.graph.walk import (
    FLOATS,
    Use,
    initializers,
    node_label,
    unique_name,
    uses,
    value_names,
)
from mlflow_compress.techniques.numeric.algebra import refuse_unfit

__all__ = ["LinearLayer", "add_biases", "linear_layers"]

_RECURRENT = ("LSTM", "GRU", "RNN")


@dataclass(frozen=True)
class LinearLayer:
    """One weight of a node of the main graph that nothing else uses.

    The weight is seen as a matrix of [groups, outputs, inputs]. For a Conv an output is a channel
    (of its group) and an input a channel at one place of the kernel; for a ConvTranspose, whose
    outputs overlap, an output is a channel at one place of the kernel. The groups of a recurrent
    node are its directions, the outputs its gates.

    Attributes:
        node: the node.
        weight: name of its weight initializer.
        source: name of the value whose rows are multiplied with the matrix.
        bias: name of the initializer that is added to its outputs, one value per output, or None.
        groups: number of groups.
        transposed: whether the tensor is stored as [inputs, outputs].
        recurrent: whether the rows are the hidden states of the step before.
        attributes: the node's attributes.
    """

    node: NodeProto
    weight: str
    source: str
    bias: str | None = None
    groups: int = 1
    transposed: bool = False
    recurrent: bool = False
    attributes: dict[str, Any] = field(default_factory=dict)

    def matrix(self, array: np.ndarray) -> np.ndarray:
        """Return the stored weight as [groups, outputs, inputs]."""
        if self.transposed:
            width = array.shape[0] // self.groups
            return array.reshape(self.groups, width, -1).transpose(0, 2, 1)
        if self.node.op_type in _RECURRENT:
            return array
        return array.reshape(self.groups, array.shape[0] // self.groups, -1)

    def stored(self, matrix: np.ndarray, shape: Sequence[int]) -> np.ndarray:
        """Return a matrix of [groups, outputs, inputs] in the tensor's own shape."""
        if self.transposed:
            matrix = matrix.transpose(0, 2, 1)
        return np.ascontiguousarray(matrix.reshape(shape))

    @property
    def steps_first(self) -> bool:
        """Whether its input rows go through the batch once for each step in time."""
        return self.node.op_type in _RECURRENT

    def count(self, activation: np.ndarray, kernel: Sequence[int]) -> int:
        """Return how many rows an activation has."""
        return math.prod(self._places(activation, kernel))

    def choose(
        self, activation: np.ndarray, kernel: Sequence[int], limit: int, rng: np.random.Generator
    ) -> np.ndarray:
        """Draw at most ``limit`` of the rows that an activation has; sorted indices."""
        count = self.count(activation, kernel)
        if count <= limit:
            return np.arange(count)
        return np.sort(rng.choice(count, limit, replace=False))

    def rows(self, activation: np.ndarray, kernel: Sequence[int], chosen: np.ndarray) -> np.ndarray:
        """Return the chosen input rows of an activation, [groups, rows, inputs].

        Args:
            activation: the value named ``source``, for a batch.
            kernel: the stored weight's shape.
            chosen: indices from :meth:`choose`.

        Raises:
            TechniqueError: they are not finite, or too large to be squared.
        """
        made = self._rows(activation, kernel, chosen)
        refuse_unfit(made, f"what {node_label(self.node)} gets")
        return made

    def _rows(
        self, activation: np.ndarray, kernel: Sequence[int], chosen: np.ndarray
    ) -> np.ndarray:
        if self.node.op_type == "Conv":
            return self._patches(activation, kernel, chosen)
        if self.node.op_type == "ConvTranspose":
            x = np.moveaxis(activation, 1, -1).reshape(-1, activation.shape[1])[chosen]
            return x.reshape(len(x), self.groups, -1).transpose(1, 0, 2)
        if self.recurrent:
            return np.stack([states.reshape(-1, states.shape[-1])[chosen] for states in
                             self._states(activation)])  # fmt: skip
        x = activation.reshape(-1, activation.shape[-1])[chosen]
        return np.broadcast_to(x, (self.groups, *x.shape))

    def _states(self, activation: np.ndarray) -> Iterator[np.ndarray]:
        """Yield each direction's hidden states of the step before, from [steps, dirs, ...]."""
        backwards = self.attributes.get("direction", b"forward") == b"reverse"
        for index in range(self.groups):
            states = activation[:, index]
            yield states[1:] if backwards or index == 1 else states[:-1]

    def _places(self, activation: np.ndarray, kernel: Sequence[int]) -> tuple[int, ...]:
        if self.node.op_type == "ConvTranspose":
            return activation.shape[0], *activation.shape[2:]
        if self.recurrent:
            return activation.shape[0] - 1, activation.shape[2]
        if self.node.op_type != "Conv":
            return activation.shape[:-1]
        strides, dilations = self._steps(len(kernel) - 2)
        pads = self._pads(activation.shape[2:], kernel[2:], strides, dilations)
        sizes = zip(activation.shape[2:], kernel[2:], strides, dilations, pads, strict=True)
        return activation.shape[0], *(
            (n + sum(pad) - (k - 1) * d - 1) // s + 1 for n, k, s, d, pad in sizes
        )

    def _patches(
        self, activation: np.ndarray, kernel: Sequence[int], chosen: np.ndarray
    ) -> np.ndarray:
        rank = len(kernel) - 2
        strides, dilations = self._steps(rank)
        pads = self._pads(activation.shape[2:], kernel[2:], strides, dilations)
        padded = np.pad(activation, [(0, 0), (0, 0), *pads])
        row, *spots = np.unravel_index(chosen, self._places(activation, kernel))
        index: list[Any] = [row.reshape(-1, *[1] * rank), slice(None)]
        for axis, spot in enumerate(spots):
            steps = spot[:, None] * strides[axis] + np.arange(kernel[axis + 2]) * dilations[axis]
            shape = [1] * (rank + 1)
            shape[0], shape[axis + 1] = steps.shape
            index.append(steps.reshape(shape))
        # advanced indices around a slice put the channels last
        patches = np.moveaxis(padded[tuple(index)], -1, 1)
        return patches.reshape(len(chosen), self.groups, -1).transpose(1, 0, 2)

    def _steps(self, rank: int) -> tuple[list[int], list[int]]:
        ones = [1] * rank
        return self.attributes.get("strides", ones), self.attributes.get("dilations", ones)

    def _pads(
        self,
        size: Sequence[int],
        kernel: Sequence[int],
        strides: Sequence[int],
        dilations: Sequence[int],
    ) -> list[tuple[int, int]]:
        mode = self.attributes.get("auto_pad", b"NOTSET").decode()
        if mode == "NOTSET":
            pads = self.attributes.get("pads", [0] * (2 * len(kernel)))
            return list(zip(pads[: len(kernel)], pads[len(kernel) :], strict=True))
        if mode == "VALID":
            return [(0, 0)] * len(kernel)
        pairs = []
        for n, k, s, d in zip(size, kernel, strides, dilations, strict=True):
            total = max((math.ceil(n / s) - 1) * s + (k - 1) * d + 1 - n, 0)
            small, large = total // 2, total - total // 2
            pairs.append((small, large) if mode == "SAME_UPPER" else (large, small))
        return pairs


def linear_layers(model: ModelProto) -> Iterator[LinearLayer]:
    """Yield the main graph's linear layers in the order in which they run.

    Left out are layers whose weight is used elsewhere too, Gemm with ``transA`` or ``alpha``,
    MatMul whose weight is its first input or has more than two axes, and recurrent nodes with
    the batch first.
    """
    held, where = initializers(model), uses(model)
    alone = {
        name
        for name, tensor in held.items()
        if len(where[name]) == 1 and tensor.data_type in FLOATS and 0 not in tensor.dims
    }
    reader = _Reader(held, where, alone)
    for node in model.graph.node:
        yield from reader.layers(node)


def add_biases(model: ModelProto, weights: Container[str]) -> dict[str, str]:
    """Give a bias of zeros to each Conv and Gemm with one of these weights and none, in place.

    Returns:
        The weight of each new bias.
    """
    held = initializers(model)
    taken = value_names(model)
    origin = {}
    for layer in list(linear_layers(model)):
        node, weight = layer.node, layer.weight
        has = len(node.input) > 2 and node.input[2]
        if node.op_type not in ("Conv", "Gemm") or has or weight not in weights:
            continue
        name = unique_name(f"{weight}_bias", taken)
        groups, outputs, _ = layer.matrix(numpy_helper.to_array(held[weight])).shape
        dtype = helper.tensor_dtype_to_np_dtype(held[weight].data_type)
        zeros = np.zeros(groups * outputs, dtype)
        model.graph.initializer.append(numpy_helper.from_array(zeros, name))
        del node.input[2:]
        node.input.append(name)
        origin[name] = weight
    return origin


Attributes = dict[str, Any]


@dataclass(frozen=True)
class _Reader:
    """Reads layers off nodes.

    Attributes:
        held: the initializers.
        where: who reads each value.
        alone: the weights that one node reads.
    """

    held: Mapping[str, TensorProto]
    where: Mapping[str, Sequence[Use]]
    alone: set[str]

    def layers(self, node: NodeProto) -> Iterator[LinearLayer]:
        """Yield a node's layers: two of a recurrent one, else one at most."""
        attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        if node.op_type in _RECURRENT:
            yield from self._recurrent(node, attributes)
            return
        make = _MAKERS.get(node.op_type)
        if make is not None and node.input[1] in self.alone and node.input[0] not in self.held:
            layer = make(self, node, attributes)
            if layer is not None:
                yield layer

    def _conv(self, node: NodeProto, attributes: Attributes) -> LinearLayer:
        bias = self._bias(node, 2, self.held[node.input[1]].dims[0])
        groups = int(attributes.get("group", 1))
        return LinearLayer(node, node.input[1], node.input[0], bias, groups, attributes=attributes)

    def _deconv(self, node: NodeProto, attributes: Attributes) -> LinearLayer:
        groups = int(attributes.get("group", 1))
        return LinearLayer(
            node, node.input[1], node.input[0], None, groups, transposed=True, attributes=attributes
        )

    def _gemm(self, node: NodeProto, attributes: Attributes) -> LinearLayer | None:
        if attributes.get("transA", 0) or attributes.get("alpha", 1) != 1:
            return None
        transposed = not attributes.get("transB", 0)
        width = self.held[node.input[1]].dims[1 if transposed else 0]
        bias = self._bias(node, 2, width) if attributes.get("beta", 1) == 1 else None
        return LinearLayer(
            node, node.input[1], node.input[0], bias, transposed=transposed, attributes=attributes
        )

    def _matmul(self, node: NodeProto, _attributes: Attributes) -> LinearLayer | None:
        dims = self.held[node.input[1]].dims
        if len(dims) != 2:
            return None
        bias = None
        followers = self.where.get(node.output[0], ())
        if len(followers) == 1 and followers[0].node.op_type == "Add":
            bias = self._bias(followers[0].node, 1 - followers[0].index, dims[1])
        return LinearLayer(node, node.input[1], node.input[0], bias, transposed=True)

    def _recurrent(self, node: NodeProto, attributes: Attributes) -> Iterator[LinearLayer]:
        if attributes.get("layout", 0):
            return
        for index, source in ((1, node.input[0]), (2, node.output[0] if node.output else "")):
            weight = node.input[index]
            if weight in self.alone and source and source not in self.held:
                yield LinearLayer(
                    node,
                    weight,
                    source,
                    groups=self.held[weight].dims[0],
                    recurrent=index == 2,
                    attributes=attributes,
                )

    def _bias(self, node: NodeProto, index: int, width: int) -> str | None:
        """Return a node's input when it is an initializer of its own with a value per output."""
        name = node.input[index] if len(node.input) > index else ""
        if name not in self.alone:
            return None
        dims = list(self.held[name].dims)
        return name if math.prod(dims) == width and dims[-1:] == [width] else None


_MAKERS: Mapping[str, Callable[[_Reader, NodeProto, Attributes], LinearLayer | None]] = {
    "Conv": _Reader._conv,
    "ConvTranspose": _Reader._deconv,
    "Gemm": _Reader._gemm,
    "MatMul": _Reader._matmul,
}
