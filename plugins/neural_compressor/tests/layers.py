"""Models of one layer each, and the matrix of which algorithm works on which.

    python tests/layers.py

prints the table that stands in the README.
"""

import re
import sys
from collections.abc import Callable

import numpy as np
import onnx
from onnx import TensorProto, helper

from mlflow_compress.errors import TechniqueError
from mlflow_compress.records import Recipe, Step
from mlflow_compress.techniques import Context, apply_recipe, normalize
from mlflow_compress.testing.models import model_of

ALGORITHMS = {
    "rtn": Step("neural_compressor", {"algorithm": "rtn"}),
    "gptq": Step("neural_compressor", {"algorithm": "gptq"}),
    "static": Step("neural_compressor_static"),
}


def _weights(*shape: int) -> np.ndarray:
    return np.random.default_rng(1).normal(0, 0.3, shape).astype(np.float32)


def _one(op: str, weight: tuple[int, ...], inputs: list, outputs: list, **attributes) -> tuple:
    node = helper.make_node(op, ["x", "w"], ["y"], **attributes)
    return model_of([node], {"w": _weights(*weight)}, {"x": inputs}, {"y": outputs}), inputs


def _conv(weight: tuple[int, ...], size: list[int], made: list[int], **attributes) -> tuple:
    groups = attributes.get("group", 1)
    inputs = ["n", weight[1] * groups, *size]
    return _one("Conv", weight, inputs, ["n", weight[0], *made], **attributes)


def _lstm() -> tuple:
    node = helper.make_node("LSTM", ["x", "w", "r"], ["y"], hidden_size=4)
    arrays = {"w": _weights(1, 16, 8), "r": _weights(1, 16, 4)}
    return model_of([node], arrays, {"x": [5, "n", 8]}, {"y": [5, 1, "n", 4]}), [5, "n", 8]


def _shared() -> tuple:
    nodes = [helper.make_node("MatMul", [a, "w"], [b]) for a, b in (("x", "h"), ("h", "y"))]
    return model_of(nodes, {"w": _weights(16, 16)}, {"x": ["n", 16]}, {"y": ["n", 16]}), ["n", 16]


def _embedding() -> tuple:
    node = helper.make_node("Gather", ["w", "x"], ["y"])
    model = model_of([helper.make_node("Identity", ["x"], ["y"])], {}, {"x": ["n"]}, {"y": ["n"]})
    del model.graph.node[:], model.graph.input[:], model.graph.output[:]
    model.graph.node.append(node)
    model.graph.initializer.append(onnx.numpy_helper.from_array(_weights(16, 16), "w"))
    model.graph.input.append(helper.make_tensor_value_info("x", TensorProto.INT64, ["n"]))
    model.graph.output.append(helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 16]))
    return model, ["n"]


LAYERS: dict[str, Callable[[], tuple]] = {
    "Gemm": lambda: _one("Gemm", (24, 32), ["n", 32], ["n", 24], transB=1),
    "Gemm, stored the other way": lambda: _one("Gemm", (32, 24), ["n", 32], ["n", 24]),
    "Gemm, alpha other than 1": lambda: _one("Gemm", (32, 24), ["n", 32], ["n", 24], alpha=0.5),
    "MatMul": lambda: _one("MatMul", (32, 24), ["n", 32], ["n", 24]),
    "MatMul of sequences": lambda: _one("MatMul", (32, 24), ["n", 3, 32], ["n", 3, 24]),
    "MatMul, a weight used twice": _shared,
    "Conv, 1 dimension": lambda: _conv((8, 4, 3), [9], [7]),
    "Conv, 2 dimensions": lambda: _conv((8, 4, 3, 3), [9, 9], [7, 7]),
    "Conv, 3 dimensions": lambda: _conv((8, 4, 3, 3, 3), [6, 6, 6], [4, 4, 4]),
    "Conv, strides and dilations": lambda: _conv(
        (8, 4, 3, 3), [9, 9], [3, 3], strides=[2, 2], dilations=[2, 2]
    ),
    "Conv, unequal padding": lambda: _conv((8, 4, 3, 3), [9, 9], [9, 8], pads=[2, 0, 0, 1]),
    "Conv, SAME_UPPER": lambda: _conv((8, 4, 3, 3), [9, 9], [9, 9], auto_pad="SAME_UPPER"),
    "Conv, groups": lambda: _conv((8, 4, 3, 3), [9, 9], [7, 7], group=2),
    "Conv, depthwise": lambda: _conv((8, 1, 3, 3), [9, 9], [7, 7], group=8),
    "ConvTranspose": lambda: _one("ConvTranspose", (4, 8, 3, 3), ["n", 4, 7, 7], ["n", 8, 9, 9]),
    "LSTM": _lstm,
    "Gather (an embedding)": _embedding,
}


def model_and_rows(layer: str) -> tuple[onnx.ModelProto, dict[str, np.ndarray]]:
    model, shape = LAYERS[layer]()
    shape = [96 if size == "n" else size for size in shape]
    rng = np.random.default_rng(2)
    whole = model.graph.input[0].type.tensor_type.elem_type == TensorProto.INT64
    rows = rng.integers(0, 16, shape) if whole else rng.normal(size=shape).astype(np.float32)
    return normalize(model), {"x": rows}


def outcome(layer: str, algorithm: str) -> str:
    """Return `integers`, or why the weights stay in float."""
    model, rows = model_and_rows(layer)
    try:
        made = apply_recipe(model, Recipe((ALGORITHMS[algorithm],)), Context(rows)).model
    except TechniqueError as error:
        return "no: " + _short(str(error))
    kinds = {t.name: t.data_type for t in made.graph.initializer}
    assert any("quantized" in name for name in kinds), kinds
    return "integers"


def _short(reason: str) -> str:
    """Keep the reason: without the step, the sentence around it and the tensor's name."""
    reason = re.sub(r"^step 1 '\w+': ", "", reason)
    reason = re.sub(r"^neural_compressor has nothing to quantize with \w+: ", "", reason)
    reason = re.sub(r"^(neural_compressor_static: )", "", reason)
    return re.sub(r"^[wr] ", "", reason).split("; ")[0]


def table() -> str:
    lines = [
        "| layer | " + " | ".join(ALGORITHMS) + " |",
        "|---|" + "---|" * len(ALGORITHMS),
    ]
    for layer in LAYERS:
        cells = [outcome(layer, algorithm) for algorithm in ALGORITHMS]
        lines.append(f"| {layer} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.stdout.write(table() + "\n")
