"""Graphs that are built node by node, for tests of what follows channels through them."""

import numpy as np
import onnx
from onnx import helper


class Net:
    """Builds a graph node by node; weights are drawn at random."""

    def __init__(self, rng, build, shape):
        self.rng, self.build, self.shape = rng, build, shape
        self.nodes, self.arrays = [], {}

    def add(self, op, *inputs, count=1, **attributes) -> str:
        outputs = [f"{op.lower()}{len(self.nodes)}"] + [
            f"{op.lower()}{len(self.nodes)}_{i}" for i in range(1, count)
        ]
        self.nodes.append(helper.make_node(op, list(inputs), outputs, **attributes))
        return outputs[0] if count == 1 else outputs

    def hold(self, name, array) -> str:
        kind = np.int64 if np.asarray(array).dtype.kind == "i" else np.float32
        self.arrays[name] = np.asarray(array, kind)
        return name

    def weight(self, name, *shape) -> str:
        size = np.sqrt(2 / np.prod(shape[1:]))
        return self.hold(name, self.rng.normal(0, size, shape))

    def conv(self, x, name, out, inputs, kernel=3, group=1, **attributes) -> str:
        names = [self.weight(name, out, inputs // group, kernel, kernel)]
        names.append(self.weight(f"{name}.b", out))
        pads = [kernel // 2] * 4
        return self.add("Conv", x, *names, pads=pads, group=group, **attributes)

    def norm(self, x, name, width) -> str:
        names = [self.hold(f"{name}.{i}", self.rng.uniform(0.5, 1.5, width)) for i in range(4)]
        return self.add("BatchNormalization", x, *names)

    def head(self, x, width, classes=5) -> str:
        x = self.add("Flatten", self.add("GlobalAveragePool", x))
        w, b = self.weight("head", width, classes), self.weight("head.b", classes)
        return self.add("Gemm", x, w, b)

    def model(self, output) -> onnx.ModelProto:
        self.nodes[-1].output[0] = "y"
        shape = ["n", *self.shape]
        return self.build(self.nodes, self.arrays, [("x", shape)], [("y", ["n", None])])

    def inputs(self, rows=48):
        return {"x": self.rng.normal(size=(rows, *self.shape)).astype(np.float32)}
