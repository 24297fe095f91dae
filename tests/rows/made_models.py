"""Small models whose inputs are not all rows along axis 0."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

FLOAT, INT64, BOOL = TensorProto.FLOAT, TensorProto.INT64, TensorProto.BOOL

Value = tuple[str, int, Sequence[Any] | None]


def build(
    nodes: Sequence[onnx.NodeProto],
    inputs: Sequence[Value],
    outputs: Sequence[Value],
    weights: Mapping[str, np.ndarray],
) -> onnx.ModelProto:
    """Return a checked model of opset 17."""
    graph = helper.make_graph(
        list(nodes),
        "g",
        [helper.make_tensor_value_info(*value) for value in inputs],
        [helper.make_tensor_value_info(*value) for value in outputs],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(model)
    return model


def weights(*shape: int, seed: int = 0) -> np.ndarray:
    """Return float32 weights that keep signals about as large as they are."""
    rng = np.random.default_rng([seed, *shape])
    return (rng.normal(size=shape) / np.sqrt(shape[-1])).astype(np.float32)


def with_threshold() -> onnx.ModelProto:
    """Return ``y = x @ w * scale``, with ``scale`` one number."""
    return build(
        [
            helper.make_node("MatMul", ["x", "w"], ["h"]),
            helper.make_node("Mul", ["h", "scale"], ["y"]),
        ],
        [("x", FLOAT, ["n", 16]), ("scale", FLOAT, [])],
        [("y", FLOAT, ["n", 8])],
        {"w": weights(16, 8)},
    )


def gru(
    *, batch: int | str = "n", hidden: int = 12, steps: int | str = 1, features: int = 6
) -> onnx.ModelProto:
    """Return a GRU over [steps, n, features] with its state in and out, and a layer on top."""
    return build(
        [
            helper.make_node("GRU", ["x", "w", "r", "b", "", "h0"], ["", "hn"], hidden_size=hidden),
            helper.make_node("Squeeze", ["hn", "first"], ["h"]),
            helper.make_node("MatMul", ["h", "v"], ["y"]),
        ],
        [("x", FLOAT, [steps, batch, features]), ("h0", FLOAT, [1, batch, hidden])],
        [("y", FLOAT, [batch, 4]), ("hn", FLOAT, [1, batch, hidden])],
        {
            "w": weights(1, 3 * hidden, features),
            "r": weights(1, 3 * hidden, hidden),
            "b": weights(1, 6 * hidden),
            "v": 3 * weights(hidden, 4),
            "first": np.array([0]),
        },
    )


def tokens(length: int | str = "t") -> onnx.ModelProto:
    """Return classes of token ids with a mask: the mean of embeddings, and each token's class."""
    return build(
        [
            helper.make_node("Gather", ["table", "ids"], ["e"]),
            helper.make_node("Cast", ["mask"], ["m"], to=FLOAT),
            helper.make_node("Unsqueeze", ["m", "last"], ["m3"]),
            helper.make_node("Mul", ["e", "m3"], ["masked"]),
            helper.make_node("ReduceSum", ["masked", "one"], ["total"], keepdims=0),
            helper.make_node("ReduceSum", ["m", "one"], ["count"], keepdims=1),
            helper.make_node("Div", ["total", "count"], ["mean"]),
            helper.make_node("MatMul", ["mean", "v"], ["y"]),
            helper.make_node("MatMul", ["e", "v"], ["each"]),
        ],
        [("ids", INT64, ["n", length]), ("mask", INT64, ["n", length])],
        [("y", FLOAT, ["n", 5]), ("each", FLOAT, ["n", length, 5])],
        {
            "table": weights(20, 8),
            "v": weights(8, 5),
            "last": np.array([2]),
            "one": np.array([1]),
        },
    )


def images(*, batch: int | str = "n", size: int | None = None) -> onnx.ModelProto:
    """Return a convolution with classes by mean pooling, and its feature map."""
    return build(
        [
            helper.make_node("Conv", ["image", "w"], ["c"], pads=[1, 1, 1, 1]),
            helper.make_node("Relu", ["c"], ["map"]),
            helper.make_node("GlobalAveragePool", ["map"], ["p"]),
            helper.make_node("Flatten", ["p"], ["f"]),
            helper.make_node("MatMul", ["f", "v"], ["y"]),
        ],
        [("image", FLOAT, [batch, 3, size, size])],
        [("y", FLOAT, [batch, 4]), ("map", FLOAT, [batch, 6, size, size])],
        {"w": weights(6, 3, 3, 3), "v": 3 * weights(6, 4)},
    )


def detector() -> onnx.ModelProto:
    """Return boxes after NonMaxSuppression, [selected, 3], whatever the number of images."""
    return build(
        [
            helper.make_node("MatMul", ["x", "w"], ["flat"]),
            helper.make_node("Reshape", ["flat", "to_boxes"], ["raw"]),
            helper.make_node("Sigmoid", ["raw"], ["boxes"]),
            helper.make_node("MatMul", ["x", "s"], ["raw_scores"]),
            helper.make_node("Reshape", ["raw_scores", "to_scores"], ["scores"]),
            helper.make_node(
                "NonMaxSuppression", ["boxes", "scores", "most", "overlap", "least"], ["selected"]
            ),
        ],
        [("x", FLOAT, ["n", 16])],
        [("selected", INT64, ["selected", 3]), ("boxes", FLOAT, ["n", 6, 4])],
        {
            "w": weights(16, 24),
            "s": weights(16, 6),
            "to_boxes": np.array([-1, 6, 4]),
            "to_scores": np.array([-1, 1, 6]),
            "most": np.array([4]),
            "overlap": np.array([0.5], np.float32),
            "least": np.array([0.0], np.float32),
        },
    )


def with_loss() -> onnx.ModelProto:
    """Return ``y = x @ w`` and the mean of its squares, one number for a whole call."""
    return build(
        [
            helper.make_node("MatMul", ["x", "w"], ["y"]),
            helper.make_node("Mul", ["y", "y"], ["squares"]),
            helper.make_node("ReduceMean", ["squares"], ["loss"], keepdims=0),
        ],
        [("x", FLOAT, ["n", 16])],
        [("loss", FLOAT, []), ("y", FLOAT, ["n", 8])],
        {"w": weights(16, 8)},
    )


def sound() -> onnx.ModelProto:
    """Return frames of [time, 8] for one signal of [time, 16], without an axis of rows."""
    return build(
        [helper.make_node("MatMul", ["signal", "w"], ["frames"])],
        [("signal", FLOAT, ["time", 16])],
        [("frames", FLOAT, ["time", 8])],
        {"w": weights(16, 8)},
    )


def one_at_a_time() -> onnx.ModelProto:
    """Return a model that says it takes any number of rows, and flattens them into one."""
    return build(
        [
            helper.make_node("MatMul", ["x", "w"], ["h"]),
            helper.make_node("Reshape", ["h", "flat"], ["y"]),
        ],
        [("x", FLOAT, ["n", 16])],
        [("y", FLOAT, ["n", 8])],
        {"w": weights(16, 8), "flat": np.array([1, -1])},
    )
