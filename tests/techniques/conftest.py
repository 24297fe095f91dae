"""Small models and calibration inputs for the techniques' tests."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper


def tensor(name: str, array: np.ndarray) -> onnx.TensorProto:
    return numpy_helper.from_array(np.ascontiguousarray(array), name)


def model_of(nodes, initializers, inputs, outputs, opset=20) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in inputs],
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in outputs],
        [tensor(name, array) for name, array in initializers.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)
    onnx.checker.check_model(model, full_check=True)
    return model


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(7)


@pytest.fixture
def build():
    """Build a model from nodes, initializer arrays and (name, shape) inputs and outputs."""
    return model_of


@pytest.fixture
def convnet(rng) -> onnx.ModelProto:
    """Two Conv, Gemm and MatMul + Add with Relus and a MaxPool, on [n, 1, 12, 12]."""
    f32 = np.float32
    arrays = {
        "c1.w": rng.normal(0, 0.3, (8, 1, 3, 3)).astype(f32),
        "c1.b": rng.normal(0, 0.1, 8).astype(f32),
        "c2.w": rng.normal(0, 0.15, (16, 8, 3, 3)).astype(f32),
        "c2.b": rng.normal(0, 0.1, 16).astype(f32),
        "f1.w": rng.normal(0, 0.08, (64, 144)).astype(f32),
        "f1.b": rng.normal(0, 0.1, 64).astype(f32),
        "f2.w": rng.normal(0, 0.15, (64, 10)).astype(f32),
        "f2.b": rng.normal(0, 0.1, 10).astype(f32),
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
    return model_of(nodes, arrays, [("x", ["n", 1, 12, 12])], [("y", ["n", 10])])


@pytest.fixture
def rows(rng) -> dict[str, np.ndarray]:
    """Calibration inputs of the convnet."""
    return {"x": rng.normal(0, 1, (96, 1, 12, 12)).astype(np.float32)}


@pytest.fixture
def evaluate():
    """Run a model on inputs and return its first output."""
    import onnxruntime as ort

    def run(model: onnx.ModelProto, inputs) -> np.ndarray:
        options = ort.SessionOptions()
        options.log_severity_level = 4
        session = ort.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        return session.run(None, inputs)[0]

    return run


@pytest.fixture
def arrays():
    """Return a model's initializers as arrays by name."""

    def read(model: onnx.ModelProto) -> dict[str, np.ndarray]:
        return {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}

    return read
