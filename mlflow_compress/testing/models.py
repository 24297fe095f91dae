"""A small model with rows, for contracts: every case takes a fraction of a second on it."""

from collections.abc import Mapping, Sequence

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper

from mlflow_compress.techniques import normalize

__all__ = ["contract_model", "contract_rows", "model_of", "weightless_model"]

_SEED = 7

Shape = Sequence[int | str]


def model_of(
    nodes: Sequence[NodeProto],
    arrays: Mapping[str, np.ndarray],
    inputs: Mapping[str, Shape],
    outputs: Mapping[str, Shape],
    opset: int = 20,
) -> onnx.ModelProto:
    """Return a checked model of float inputs and outputs."""

    def values(shapes: Mapping[str, Shape]) -> list[onnx.ValueInfoProto]:
        return [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
            for name, shape in shapes.items()
        ]

    tensors = [
        numpy_helper.from_array(np.ascontiguousarray(array), name) for name, array in arrays.items()
    ]
    graph = helper.make_graph(nodes, "contract", values(inputs), values(outputs), tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)
    onnx.checker.check_model(model, full_check=True)
    return model


def contract_model(rng: np.random.Generator | None = None) -> onnx.ModelProto:
    """Return a classifier of [n, 1, 12, 12] into 10 classes, normalised.

    Two Conv, a Gemm and a MatMul with an Add behind it, with Relus between and a MaxPool.

    Args:
        rng: draws the weights; by default they are always the same.
    """
    rng = rng or np.random.default_rng(_SEED)

    def normal(scale: float, *shape: int) -> np.ndarray:
        return rng.normal(0, scale, shape).astype(np.float32)

    arrays = {
        "c1.w": normal(0.3, 8, 1, 3, 3),
        "c1.b": normal(0.1, 8),
        "c2.w": normal(0.15, 16, 8, 3, 3),
        "c2.b": normal(0.1, 16),
        "f1.w": normal(0.08, 64, 144),
        "f1.b": normal(0.1, 64),
        "f2.w": normal(0.15, 64, 10),
        "f2.b": normal(0.1, 10),
    }
    nodes = [
        helper.make_node("Conv", ["x", "c1.w", "c1.b"], ["a"]),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("MaxPool", ["b"], ["c"], kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Conv", ["c", "c2.w", "c2.b"], ["d"]),
        helper.make_node("Relu", ["d"], ["e"]),
        helper.make_node("Flatten", ["e"], ["f"]),
        helper.make_node("Gemm", ["f", "f1.w", "f1.b"], ["g"], transB=1),
        helper.make_node("Relu", ["g"], ["h"]),
        helper.make_node("MatMul", ["h", "f2.w"], ["i"]),
        helper.make_node("Add", ["i", "f2.b"], ["y"]),
    ]
    return normalize(model_of(nodes, arrays, {"x": ["n", 1, 12, 12]}, {"y": ["n", 10]}))


def contract_rows(rows: int = 64) -> dict[str, np.ndarray]:
    """Return inputs of the model."""
    shape = (rows, 1, 12, 12)
    return {"x": np.random.default_rng(_SEED).normal(0, 1, shape).astype(np.float32)}


def weightless_model() -> onnx.ModelProto:
    """Return a model of the same ends that has nothing to compress."""
    nodes = [
        helper.make_node("Flatten", ["x"], ["a"]),
        helper.make_node("Relu", ["a"], ["y"]),
    ]
    return normalize(model_of(nodes, {}, {"x": ["n", 1, 12, 12]}, {"y": ["n", 144]}))
