"""Linear layers of an ONNX graph: their weights as matrices, their inputs as rows.

A Conv is a linear layer whose rows are patches. With it, least squares and quantization by
calibration data treat Conv, Gemm and MatMul alike.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from onnx import ModelProto, NodeProto, helper, numpy_helper

from mlflow_compress.techniques.onnx_graph import Use, initializers, uses

__all__ = ["LinearLayer", "linear_layers"]


@dataclass(frozen=True)
class LinearLayer:
    """One Conv, Gemm or MatMul of the main graph whose weight nothing else uses.

    Its weight is seen as a matrix of [groups, outputs, inputs]: an output is a channel (of its
    group), an input is a channel at one place of the kernel.

    Attributes:
        node: the node.
        weight: name of its weight initializer.
        bias: name of the initializer that is added to its outputs, one value per output, or None.
        groups: groups of the convolution, otherwise 1.
        transposed: whether the tensor is stored as [inputs, outputs].
        attributes: the node's attributes.
    """

    node: NodeProto
    weight: str
    bias: str | None = None
    groups: int = 1
    transposed: bool = False
    attributes: dict[str, Any] = field(default_factory=dict)

    @property
    def source(self) -> str:
        """Name of the value that goes into the layer."""
        return str(self.node.input[0])

    @property
    def target(self) -> str:
        """Name of the value that the node makes (for MatMul before the bias is added)."""
        return str(self.node.output[0])

    def matrix(self, array: np.ndarray) -> np.ndarray:
        """Return the stored weight as [groups, outputs, inputs]."""
        if self.transposed:
            return array.T[None]
        return array.reshape(self.groups, array.shape[0] // self.groups, -1)

    def stored(self, matrix: np.ndarray, shape: Sequence[int]) -> np.ndarray:
        """Return a matrix of [groups, outputs, inputs] in the tensor's own shape."""
        return np.ascontiguousarray(matrix[0].T if self.transposed else matrix.reshape(shape))

    def rows(
        self,
        inputs: np.ndarray,
        outputs: np.ndarray,
        kernel: Sequence[int],
        limit: int,
        rng: np.random.Generator,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Pair input rows with output rows.

        Args:
            inputs: activations that go into the layer.
            outputs: activations that the (dense) layer makes of its own inputs, same places.
            kernel: the stored weight's shape.
            limit: draw at most so many rows.
            rng: draws them.

        Returns:
            Arrays of [groups, rows, inputs] and [groups, rows, outputs].
        """
        if self.node.op_type == "Conv":
            return self._patches(inputs, outputs, kernel[2:], limit, rng)
        x = inputs.reshape(-1, inputs.shape[-1])
        y = outputs.reshape(-1, outputs.shape[-1])
        if len(x) > limit:
            chosen = np.sort(rng.choice(len(x), limit, replace=False))
            x, y = x[chosen], y[chosen]
        return x[None], y[None]

    def _patches(
        self,
        inputs: np.ndarray,
        outputs: np.ndarray,
        kernel: Sequence[int],
        limit: int,
        rng: np.random.Generator,
    ) -> tuple[np.ndarray, np.ndarray]:
        rank = len(kernel)
        strides = self.attributes.get("strides", [1] * rank)
        dilations = self.attributes.get("dilations", [1] * rank)
        pads = self._pads(inputs.shape[2:], kernel, strides, dilations)
        padded = np.pad(inputs, [(0, 0), (0, 0), *pads])
        places = outputs.shape[0], *outputs.shape[2:]
        count = math.prod(places)
        chosen = np.arange(count)
        if count > limit:
            chosen = np.sort(rng.choice(count, limit, replace=False))
        row, *spots = np.unravel_index(chosen, places)
        index: list[Any] = [row.reshape(-1, *[1] * rank), slice(None)]
        for axis, spot in enumerate(spots):
            steps = spot[:, None] * strides[axis] + np.arange(kernel[axis]) * dilations[axis]
            shape = [1] * (rank + 1)
            shape[0], shape[axis + 1] = steps.shape
            index.append(steps.reshape(shape))
        # advanced indices around a slice put the channels last
        patches = np.moveaxis(padded[tuple(index)], -1, 1)
        x = patches.reshape(len(chosen), self.groups, -1).transpose(1, 0, 2)
        y = np.moveaxis(outputs, 1, -1).reshape(count, -1)[chosen]
        return x, y.reshape(len(chosen), self.groups, -1).transpose(1, 0, 2)

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

    Left out are layers whose weight is used elsewhere too, Gemm with ``transA``, ``alpha`` or
    ``beta``, and MatMul whose weight is its first input or has more than two axes.
    """
    held, where = initializers(model), uses(model)
    outputs = {value.name for value in model.graph.output}
    for node in model.graph.node:
        if node.op_type not in ("Conv", "Gemm", "MatMul") or node.input[1] not in held:
            continue
        weight = node.input[1]
        if len(where[weight]) != 1 or node.input[0] in held:
            continue
        attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        rank = len(held[weight].dims)
        if node.op_type == "MatMul":
            if rank == 2:
                width = held[weight].dims[1]
                added = _added(where.get(node.output[0], []), held, width, outputs)
                yield LinearLayer(node, weight, added, transposed=True)
            continue
        plain = (attributes.get(k, d) == d for k, d in (("transA", 0), ("alpha", 1), ("beta", 1)))
        if node.op_type == "Gemm" and not all(plain):
            continue
        transposed = node.op_type == "Gemm" and not attributes.get("transB", 0)
        width = held[weight].dims[1 if transposed else 0]
        bias = node.input[2] if len(node.input) > 2 and node.input[2] else None
        if bias is not None and not (bias in held and _is_vector(held, bias, width)):
            bias = None
        if bias is not None and len(where[bias]) != 1:
            bias = None
        yield LinearLayer(
            node, weight, bias, int(attributes.get("group", 1)), transposed, attributes
        )


def _added(
    followers: Sequence[Use], held: dict[str, Any], width: int, outputs: set[str]
) -> str | None:
    """Return the vector that the only follower, an Add, adds to a MatMul's output."""
    if len(followers) != 1 or followers[0].node.op_type != "Add":
        return None
    add = followers[0].node
    if followers[0].node.input[followers[0].index] in outputs:
        return None
    other = str(add.input[1 - followers[0].index])
    return other if other in held and _is_vector(held, other, width) else None


def _is_vector(held: dict[str, Any], name: str, width: int) -> bool:
    dims = list(held[name].dims)
    return math.prod(dims) == width and dims[-1:] == [width] and _is_float(held[name])


def _is_float(tensor: Any) -> bool:
    return bool(numpy_helper.to_array(tensor).dtype.kind == "f")
