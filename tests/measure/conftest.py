"""A small model and datasets for the measurements' tests."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper


def linear(weight: np.ndarray, batch="n") -> onnx.ModelProto:
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, weight.shape[0]])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [batch, weight.shape[1]])],
        [numpy_helper.from_array(weight.astype(np.float32), "w")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(3)


@pytest.fixture
def make_linear():
    """Build ``y = x @ w`` for a weight of [inputs, outputs]."""
    return linear


@pytest.fixture
def model(rng) -> onnx.ModelProto:
    return linear(rng.normal(size=(4, 3)))
