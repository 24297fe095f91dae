"""Integers of the library in the place of weights."""

import sys
import types

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from layers import LAYERS, model_and_rows
from mlflow_compress_neural_compressor.library import library
from mlflow_compress_neural_compressor.torch_rows import OneBlock, weight_layers
from mlflow_compress_neural_compressor.torch_weights import quantize_weights
from mlflow_compress_neural_compressor.weights import WeightSettings
from onnx import TensorProto, numpy_helper

from mlflow_compress.errors import ConfigError, TechniqueError
from mlflow_compress.techniques import Context
from mlflow_compress.techniques.training import Interpreter
from mlflow_compress.testing.models import contract_model, contract_rows

WEIGHTS = ("c1.w", "c2.w", "f1.w", "f2.w")


def run(model, rows, *, fold=True):
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.add_session_config_entry("session.disable_quant_qdq", "1" if fold else "0")
    session = ort.InferenceSession(model.SerializeToString(), options, ["CPUExecutionProvider"])
    return session.run(None, dict(rows))[0]


def error(model, made, rows):
    one, two = run(model, rows), run(made, rows)
    return float(((one - two) ** 2).mean() / one.var())


def unchanged(model, made):
    """Return the names of the tensors that are the same in both."""
    new = {t.name: numpy_helper.to_array(t) for t in made.graph.initializer}
    old = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    return [n for n, array in old.items() if n in new and np.array_equal(new[n], array)]


def quantize(model, rows=None, **settings):
    return quantize_weights(model, WeightSettings(**settings), Context(rows or contract_rows()))


@pytest.mark.parametrize("algorithm", ["rtn", "gptq"])
@pytest.mark.parametrize(
    ("bits", "kind", "opset"),
    [(2, "UINT2", 25), (3, "UINT4", 21), (4, "UINT4", 21), (8, "UINT8", 20)],
)
def test_weights_are_integers_of_the_narrowest_type(bits, kind, opset, algorithm):
    made = quantize(contract_model(), bits=bits, algorithm=algorithm).model
    held = {t.name: t for t in made.graph.initializer}
    for name in WEIGHTS:
        # onnxruntime 1.32 gets products with 2 bits wrong (see ``without_two_bits``)
        narrow = "UINT4" if (bits, name) == (2, "f2.w") else kind
        assert held[f"{name}_quantized"].data_type == getattr(TensorProto, narrow)
        assert held[f"{name}_zero_point"].data_type == getattr(TensorProto, narrow)
        assert numpy_helper.to_array(held[f"{name}_quantized"]).astype(int).max() < 2**bits
        assert name not in held
    assert made.opset_import[0].version == opset


def test_the_rest_of_the_graph_stays_what_it_was():
    model = contract_model()
    made = quantize(model, bits=4).model
    nodes = [
        [(n.op_type, list(n.input), list(n.output)) for n in graph.node
         if n.op_type != "DequantizeLinear"]
        for graph in (model.graph, made.graph)
    ]  # fmt: skip
    assert nodes[0] == nodes[1]
    assert {"c1.b", "c2.b", "f1.b", "f2.b"} <= set(unchanged(model, made))


@pytest.mark.parametrize("algorithm", ["rtn", "gptq"])
def test_more_bits_are_closer(algorithm):
    model, rows = contract_model(), contract_rows()
    errors = [
        error(model, quantize(model, bits=b, algorithm=algorithm).model, rows) for b in (2, 4, 8)
    ]
    assert errors[0] > 5 * errors[1] > 25 * errors[2]
    assert errors[2] < 1e-3


def test_rounding_to_the_nearest_is_within_half_a_step():
    model = contract_model()
    made = quantize(model, bits=8, algorithm="rtn").model
    new = {t.name: numpy_helper.to_array(t) for t in made.graph.initializer}
    old = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    whole = new["f1.w_quantized"].astype(float) - new["f1.w_zero_point"].astype(float)[:, None]
    steps = new["f1.w_scale"][:, None]
    # the scales are kept as float16: half a step and a little more
    assert (np.abs(whole * steps - old["f1.w"]) <= 0.57 * steps).all()


def test_gptq_beats_the_nearest_on_rows_it_has_not_seen():
    model = contract_model()
    other = {"x": np.random.default_rng(9).normal(size=(64, 1, 12, 12)).astype(np.float32)}
    for bits in (2, 3):
        gptq, rtn = (
            error(model, quantize(model, contract_rows(256), bits=bits, algorithm=a).model, other)
            for a in ("gptq", "rtn")
        )
        assert gptq < 0.8 * rtn


def test_groups_have_a_scale_each_and_the_last_may_be_shorter():
    model, rows = contract_model(), contract_rows()
    for algorithm in ("rtn", "gptq"):
        made = quantize(model, bits=3, algorithm=algorithm, group_size=32)
        held = {t.name: tuple(t.dims) for t in made.model.graph.initializer}
        assert held["f1.w_scale"] == held["f1.w_zero_point"] == (64, 5)  # 144 inputs
        assert held["f2.w_scale"] == (2, 10)  # stored the other way
        assert held["c2.w_scale"] == (16,)
        (note,) = made.notes
        assert "c1.w, c2.w" in note
        plain = quantize(model, bits=3, algorithm=algorithm)
        assert error(model, made.model, rows) < error(model, plain.model, rows)


def test_eight_bits_and_symmetric_ones_have_their_zero_in_the_middle():
    for settings in ({"bits": 8}, {"bits": 4, "symmetric": True}):
        made = quantize(contract_model(), **settings).model
        zeros = [numpy_helper.to_array(t).astype(int) for t in made.graph.initializer
                 if t.name.endswith("zero_point")]  # fmt: skip
        assert all((zero == 2 ** (settings["bits"] - 1)).all() for zero in zeros)


def test_pruned_zeros_stay_zeros():
    model = contract_model()
    tensor = next(t for t in model.graph.initializer if t.name == "f1.w")
    array = numpy_helper.to_array(tensor).copy()
    array[np.abs(array) < 0.08] = 0
    tensor.CopyFrom(numpy_helper.from_array(array, "f1.w"))
    for algorithm in ("rtn", "gptq"):
        made = quantize(model, bits=4, algorithm=algorithm).model
        new = {t.name: numpy_helper.to_array(t).astype(float) for t in made.graph.initializer}
        whole = new["f1.w_quantized"] - new["f1.w_zero_point"][:, None]
        kept = (array == 0) & (whole == 0)
        share = kept.sum() / (array == 0).sum()
        # GPTQ moves errors of other weights onto them
        assert share == 1 if algorithm == "rtn" else share > 0.3


def test_weights_far_from_one_keep_their_scales():
    """The library keeps scales as float16, in which these would be 0 or infinite."""
    for factor in (1e-9, 1e9):
        model = contract_model()
        tensor = next(t for t in model.graph.initializer if t.name == "c1.w")
        array = numpy_helper.to_array(tensor) * np.float32(factor)
        tensor.CopyFrom(numpy_helper.from_array(array, "c1.w"))
        made = quantize(model, bits=8, algorithm="rtn").model
        new = {t.name: numpy_helper.to_array(t).astype(float) for t in made.graph.initializer}
        whole = new["c1.w_quantized"] - new["c1.w_zero_point"].reshape(-1, 1, 1, 1)
        made_of = whole * new["c1.w_scale"].reshape(-1, 1, 1, 1)
        assert np.abs(made_of - array).max() < 0.01 * np.abs(array).max()


@pytest.mark.parametrize("algorithm", ["rtn", "gptq"])
def test_an_excluded_layer_stays_in_float(algorithm):
    """The library would quantize a layer that it was told to leave out."""
    made = quantize(contract_model(), algorithm=algorithm, exclude=("c2.w", "f1.w")).model
    kept = unchanged(contract_model(), made)
    assert {"c2.w", "f1.w"} <= set(kept)
    assert not {"c1.w", "f2.w"} & set(kept)
    with pytest.raises(ConfigError, match=r"neural_compressor\.exclude: 'c7\.w'"):
        quantize(contract_model(), algorithm=algorithm, exclude=("c7.w",))


@pytest.mark.parametrize("layer", LAYERS)
def test_layers_as_rows_compute_what_the_layers_compute(layer):
    model, rows = model_and_rows(layer)
    try:
        module = Interpreter(model).eval()
    except TechniqueError as refused:
        assert "LSTM" in str(refused)
        return
    import torch

    inputs = torch.from_numpy(rows["x"])
    with torch.no_grad():
        expected = module(inputs)[0]
        layers = weight_layers(module)
        plain = {name for name, (_, layer) in layers.items() if getattr(layer, "groups", 1) == 1}
        net = OneBlock(module, plain)
        got = net.blocks[0].net(inputs)[0]
    np.testing.assert_allclose(got.numpy(), expected.numpy(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("bits", [2, 4])
def test_onnxruntime_runs_them_alike_whether_it_folds_or_not(bits):
    """Where it fuses them with a product it rounds the inputs to 8 bits; more is a fault of it."""
    made = quantize(contract_model(), bits=bits, group_size=16).model
    rows = contract_rows(256)
    folded, fused = run(made, rows), run(made, rows, fold=False)
    assert ((folded - fused) ** 2).mean() / folded.var() < 1e-3


def test_uint8_is_for_runtimes_without_narrow_types():
    made = quantize(contract_model(), bits=2, store="uint8").model
    narrow = quantize(contract_model(), bits=2).model
    assert made.opset_import[0].version == 20
    np.testing.assert_array_equal(run(made, contract_rows()), run(narrow, contract_rows()))


def test_an_unknown_operator_is_refused_by_name_and_only_by_gptq():
    model, rows = model_and_rows("LSTM")
    with pytest.raises(TechniqueError, match="LSTM 'y'"):
        quantize(model, rows, algorithm="gptq")


def test_transformers_may_be_imported_after_the_library(monkeypatch):
    """It looks for ``transformers.Conv1D`` then, without having imported transformers."""
    from neural_compressor.torch.algorithms.weight_only import gptq, rtn

    library()
    fake = types.ModuleType("transformers")
    fake.Conv1D = type("Conv1D", (), {})
    monkeypatch.setitem(sys.modules, "transformers", fake)
    for module in (gptq, rtn):
        monkeypatch.delattr(module, "transformers", raising=False)
    try:
        quantize(contract_model(), algorithm="rtn")
        quantize(contract_model(), algorithm="gptq")
    finally:
        for module in (gptq, rtn):
            vars(module).pop("transformers", None)


def test_the_terminal_stays_quiet(capfd):
    quantize(contract_model(), bits=4)
    quantize(contract_model(), bits=4, algorithm="rtn")
    assert capfd.readouterr() == ("", "")


def test_old_operators_are_converted():
    model = contract_model()
    model.opset_import[0].version = 13
    onnx.checker.check_model(model)
    assert quantize(model, bits=2).model.opset_import[0].version == 25
