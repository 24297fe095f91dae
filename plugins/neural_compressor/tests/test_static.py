"""Static quantization: integers in the file, and the names of the source."""

import numpy as np
import onnx
import pytest
from mlflow_compress_neural_compressor.static import StaticSettings
from mlflow_compress_neural_compressor.torch_static import quantize_static
from onnx import TensorProto, helper
from test_weights import error

from mlflow_compress.errors import ConfigError, TechniqueError
from mlflow_compress.techniques import Context
from mlflow_compress.testing.models import contract_model, contract_rows, model_of


def quantize(model, rows=None, **settings):
    return quantize_static(model, StaticSettings(**settings), Context(rows or contract_rows()))


@pytest.mark.parametrize("method", ["minmax", "kl"])
@pytest.mark.parametrize("per_channel", [True, False])
def test_weights_are_integers_and_outputs_are_close(method, per_channel):
    model = contract_model()
    made = quantize(model, method=method, per_channel=per_channel)
    held = {t.name: t for t in made.model.graph.initializer}
    for name in ("c1.w", "c2.w", "f1.w", "f2.w"):
        assert held[f"{name}_quantized"].data_type == TensorProto.INT8
        assert name not in held
        assert made.origin[f"{name}_quantized"] == made.origin[f"{name}_scale"] == name
        assert len(held[f"{name}_scale"].dims) == per_channel
    assert made.model.ByteSize() < 0.45 * model.ByteSize()
    assert error(model, made.model, contract_rows()) < 0.02


def test_activations_are_quantized_too():
    made = quantize(contract_model()).model
    held = {t.name for t in made.graph.initializer}
    kinds = [n.op_type for n in made.graph.node if n.input[0] not in held]
    assert kinds.count("QuantizeLinear") >= 4
    assert kinds.count("DequantizeLinear") >= 4


def test_an_excluded_layer_stays_in_float():
    made = quantize(contract_model(), exclude=("c2.w",)).model
    held = {t.name: t for t in made.graph.initializer}
    assert held["c2.w"].data_type == TensorProto.FLOAT
    assert held["c1.w_quantized"].data_type == TensorProto.INT8
    with pytest.raises(ConfigError, match=r"neural_compressor_static\.exclude: 'c2\.x' .*'c2\.w'"):
        quantize(contract_model(), exclude=("c2.x",))


def test_shapes_and_axes_that_are_constants_can_be_captured():
    rng = np.random.default_rng(0)
    arrays = {
        "w": rng.normal(size=(8, 3, 3, 3)).astype(np.float32),
        "f": rng.normal(size=(8, 10)).astype(np.float32),
        "axes": np.array([2, 3]),
        "shape": np.array([0, 8]),
        "start": np.array([1]),
        "end": np.array([7]),
        "axis": np.array([2]),
    }
    nodes = [
        helper.make_node("Slice", ["x", "start", "end", "axis"], ["s"]),
        helper.make_node("Conv", ["s", "w"], ["a"], pads=[1, 1, 1, 1]),
        helper.make_node("ReduceMean", ["a", "axes"], ["b"]),
        helper.make_node("Reshape", ["b", "shape"], ["c"]),
        helper.make_node("MatMul", ["c", "f"], ["y"]),
    ]
    model = model_of(nodes, arrays, {"x": ["n", 3, 8, 8]}, {"y": ["n", 10]})
    rows = {"x": rng.normal(size=(64, 3, 8, 8)).astype(np.float32)}
    made = quantize(model, rows).model
    onnx.checker.check_model(made, full_check=True)
    assert error(model, made, rows) < 0.02


def test_a_fixed_batch_is_refused():
    model = contract_model()
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 4
    with pytest.raises(TechniqueError, match="batch size is fixed"):
        quantize(model)


def test_the_terminal_stays_quiet(capfd):
    quantize(contract_model())
    assert capfd.readouterr() == ("", "")
