"""The operators that make a variant slow are named; a model beside itself has none to blame."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import QuantType, quantize_dynamic

from mlflow_compress.measure import Dataset, slower_operators


@pytest.fixture
def network(rng):
    """Three convolutions, which dynamic int8 makes slower."""
    arrays = {f"w{i}": rng.normal(0, 0.1, (16, 16, 3, 3)).astype(np.float32) for i in range(3)}
    nodes = [
        helper.make_node("Conv", [f"h{i}", f"w{i}"], [f"h{i + 1}"], pads=[1, 1, 1, 1])
        for i in range(3)
    ]
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("h0", TensorProto.FLOAT, ["n", 16, 24, 24])],
        [helper.make_tensor_value_info("h3", TensorProto.FLOAT, ["n", 16, 24, 24])],
        [numpy_helper.from_array(array, name) for name, array in arrays.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def test_dynamic_int8_of_convolutions_is_blamed(network, tmp_path, rng):
    onnx.save(network, tmp_path / "a.onnx")
    quantize_dynamic(tmp_path / "a.onnx", tmp_path / "b.onnx", weight_type=QuantType.QUInt8)
    rows = Dataset({"h0": rng.normal(size=(2, 16, 24, 24)).astype(np.float32)})
    found = slower_operators(onnx.load(tmp_path / "b.onnx"), network, rows)
    names = [one.operator for one in found]
    assert "ConvInteger" in names or "DynamicQuantizeLinear" in names
    assert all(one.ms > one.source_ms == 0.0 for one in found)
    extra = [one.ms - one.source_ms for one in found]
    assert extra == sorted(extra, reverse=True)


def test_a_model_that_onnxruntime_does_not_profile_is_no_error(network, rng):
    rows = Dataset({"wrong": rng.normal(size=(2, 3)).astype(np.float32)})
    assert slower_operators(network, network, rows) == ()
