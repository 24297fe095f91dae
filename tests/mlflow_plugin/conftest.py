"""A small ONNX network, and what it says."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from mlflow_compress import packed


def network(outputs=("logits",)):
    rng = np.random.default_rng(0)
    weights = numpy_helper.from_array(rng.normal(size=(20, 10)).astype(np.float32), "weights")
    nodes = [helper.make_node("MatMul", ["image", "weights"], ["logits"])]
    if "classes" in outputs:
        nodes.append(helper.make_node("ArgMax", ["logits"], ["classes"], axis=1, keepdims=0))
    infos = {
        "logits": helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["rows", 10]),
        "classes": helper.make_tensor_value_info("classes", TensorProto.INT64, ["rows"]),
    }
    graph = helper.make_graph(
        nodes,
        "network",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["rows", 20])],
        [infos[name] for name in outputs],
        [weights],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


@pytest.fixture
def onnx_model():
    return network()


@pytest.fixture
def images():
    return np.random.default_rng(1).normal(size=(6, 20)).astype(np.float32)


@pytest.fixture
def packed_file(tmp_path, onnx_model):
    """Return a function that writes the network in a profile and returns the path."""

    def write(profile="compact", outputs=("logits",), name=None):
        path = tmp_path / (name or f"{profile}.onnx")
        model = network(outputs)
        if profile == "plain":
            onnx.save(model, path)
        else:
            packed.save(packed.pack(model, profile), path)
        return path

    return write
