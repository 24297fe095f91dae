"""Small models and calibration inputs for the techniques' tests."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from mlflow_compress.testing.models import contract_model


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
    return contract_model(rng)


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
