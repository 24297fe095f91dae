"""Networks and single blocks as ONNX graphs, written node by node.

Batch normalisation is folded into the convolution before it. Writing takes milliseconds where
``torch.onnx.export`` takes seconds, so that a search can measure every finalist, and a latency
table hundreds of blocks.
"""

from collections.abc import Sequence

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from mlflow_compress.nas.blocks import Block, ConvBN, Net, SqueezeExcite
from mlflow_compress.nas.specs import BlockSpec

__all__ = ["block_onnx", "empty_onnx", "net_onnx"]

_OPSET, _IR = 18, 10
"""``Resize`` can name its axes from opset 18 on."""


class _Writer:
    """Collects nodes and weights; each method returns the name of what it made."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []

    def node(self, operator: str, inputs: Sequence[str], name: str, **attributes: object) -> str:
        self.nodes.append(helper.make_node(operator, list(inputs), [name], name, **attributes))
        return name

    def weight(self, values: np.ndarray, name: str) -> str:
        self.weights.append(numpy_helper.from_array(np.ascontiguousarray(values), name))
        return name

    def resize(self, x: str, resolution: int) -> str:
        sizes = self.weight(np.array([resolution, resolution], np.int64), "resize.sizes")
        kind = {"mode": "linear", "coordinate_transformation_mode": "half_pixel"}
        return self.node("Resize", [x, "", "", sizes], "resize", axes=[2, 3], **kind)

    def conv(self, x: str, layer: nn.Conv2d, name: str, folded: nn.BatchNorm2d | None) -> str:
        weight, bias = _folded(layer, folded)
        inputs = [x, self.weight(weight, f"{name}.weight"), self.weight(bias, f"{name}.bias")]
        pad = int(layer.padding[0])
        return self.node(
            "Conv", inputs, name, kernel_shape=list(layer.kernel_size), group=layer.groups,
            strides=list(layer.stride), pads=[pad] * 4,
        )  # fmt: skip

    def block(self, x: str, block: Block, name: str) -> str:
        made = x
        for index, layer in enumerate(block.layers):
            where = f"{name}.{index}"
            if isinstance(layer, ConvBN):
                made = self.conv(made, layer.conv, where, layer.bn)
                made = self.node("Relu", [made], f"{where}.relu") if layer.act else made
            else:
                assert isinstance(layer, SqueezeExcite)
                made = self._squeeze(made, layer, where)
        return self.node("Add", [x, made], f"{name}.add") if block.spec.adds_input else made

    def _squeeze(self, x: str, layer: SqueezeExcite, name: str) -> str:
        made = self.node("GlobalAveragePool", [x], f"{name}.pool")
        made = self.conv(made, layer.reduce, f"{name}.reduce", None)
        made = self.node("Relu", [made], f"{name}.relu")
        made = self.conv(made, layer.expand, f"{name}.expand", None)
        share = self.node("HardSigmoid", [made], f"{name}.share", alpha=1 / 6, beta=0.5)
        return self.node("Mul", [x, share], f"{name}.scaled")

    def model(self, x: onnx.ValueInfoProto, y: onnx.ValueInfoProto) -> onnx.ModelProto:
        graph = helper.make_graph(self.nodes, "net", [x], [y], self.weights)
        opset = helper.make_opsetid("", _OPSET)
        return helper.make_model(graph, opset_imports=[opset], ir_version=_IR)


def net_onnx(
    net: Net, input_name: str = "input", names: Sequence[str] | None = None
) -> onnx.ModelProto:
    """Return a network as ONNX, in evaluation mode, the batch axis open; its output is ``logits``.

    Args:
        net: the network; not changed.
        input_name: what its input is called.
        names: what its blocks are called; ``blocks.0`` and so on by default.
    """
    writer, spec = _Writer(), net.spec
    called = names or [f"blocks.{index}" for index in range(len(spec.blocks))]
    x = input_name
    if spec.resolution != spec.size:
        x = writer.resize(x, spec.resolution)
    for name, block in zip(called, net.blocks, strict=True):
        assert isinstance(block, Block)
        x = writer.block(x, block, name)
    x = writer.node("GlobalAveragePool", [x], "pool")
    x = writer.node("Flatten", [x], "flat")
    weight = writer.weight(_array(net.classifier.weight), "classifier.weight")
    bias = writer.weight(_array(net.classifier.bias), "classifier.bias")
    writer.node("Gemm", [x, weight, bias], "logits", transB=1)
    shape = ["batch", spec.channels, spec.size, spec.size]
    return writer.model(
        helper.make_tensor_value_info(input_name, TensorProto.FLOAT, shape),
        helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", spec.classes]),
    )


def block_onnx(spec: BlockSpec, size: int) -> onnx.ModelProto:
    """Return one block with random weights for rows of ``size`` x ``size``, batch 1, as ONNX."""
    writer = _Writer()
    last = writer.block("input", Block(spec).eval(), "block")
    if last == "input":
        last = writer.node("Identity", ["input"], "block")
    after = spec.size_after(size)
    return writer.model(
        helper.make_tensor_value_info("input", TensorProto.FLOAT, [1, spec.inputs, size, size]),
        helper.make_tensor_value_info(last, TensorProto.FLOAT, [1, spec.outputs, after, after]),
    )


def empty_onnx(channels: int, size: int) -> onnx.ModelProto:
    """Return a network that does nothing to an input of 1 x channels x size x size."""
    return block_onnx(BlockSpec("skip", channels, channels), size)


def _folded(layer: nn.Conv2d, bn: nn.BatchNorm2d | None) -> tuple[np.ndarray, np.ndarray]:
    """Return weight and bias with batch normalisation in them, computed in float64."""
    weight = _array(layer.weight).astype(np.float64)
    bias = np.zeros(len(weight)) if layer.bias is None else _array(layer.bias).astype(np.float64)
    if bn is not None:
        assert bn.running_var is not None and bn.running_mean is not None
        scale = _array(bn.weight) / np.sqrt(_array(bn.running_var).astype(np.float64) + bn.eps)
        weight = weight * scale[:, None, None, None]
        bias = (bias - _array(bn.running_mean)) * scale + _array(bn.bias)
    return weight.astype(np.float32), bias.astype(np.float32)


def _array(tensor: Tensor) -> np.ndarray:
    values: np.ndarray = tensor.detach().cpu().numpy()
    return values
