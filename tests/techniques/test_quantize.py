import logging

import numpy as np
import onnx
import pytest
from onnxruntime.quantization import calibrate

from mlflow_compress.errors import ConfigError, TechniqueError
from mlflow_compress.techniques import Context
from mlflow_compress.techniques.prune import PruneSettings
from mlflow_compress.techniques.prune.onnx import prune
from mlflow_compress.techniques.quantize import QuantizeSettings
from mlflow_compress.techniques.quantize import calibration as onnx_calibration
from mlflow_compress.techniques.quantize.onnx import quantize


@pytest.mark.parametrize("method", ["minmax", "percentile", "entropy"])
def test_outputs_stay_close_and_weights_become_int8(convnet, rows, arrays, evaluate, method):
    made = quantize(convnet, QuantizeSettings(method=method), Context(rows))
    before, after = evaluate(convnet, rows), evaluate(made.model, rows)
    error = np.sqrt(((before - after) ** 2).mean()) / before.std()
    assert 0 < error < 0.1
    weights = arrays(made.model)
    assert weights["c2.w_quantized"].dtype == np.int8
    assert weights["c2.w_scale"].shape == (16,)
    assert made.origin["f2.w_quantized"] == "f2.w"


def test_entropy_cuts_off_outliers_that_minmax_keeps(convnet, rows, arrays):
    (name, values), *_ = rows.items()
    outliers = {name: values.copy()}
    outliers[name][0].flat[0] = 60.0  # one number of thousands, ten times the others
    scales = {}
    for method in ("minmax", "entropy"):
        made = quantize(convnet, QuantizeSettings(method=method), Context(outliers))
        scales[method] = float(arrays(made.model)[f"{name}_scale"])
    assert scales["entropy"] < 0.5 * scales["minmax"]


@pytest.mark.parametrize("rows_used", [1, 32, 40, 96, 128])
def test_any_number_of_rows_calibrates(convnet, rows, rows_used):
    made = quantize(convnet, QuantizeSettings(rows=rows_used), Context(rows))
    assert any(node.op_type == "QuantizeLinear" for node in made.model.graph.node)


def test_per_tensor_has_one_scale(convnet, rows, arrays):
    made = quantize(convnet, QuantizeSettings(per_channel=False), Context(rows))
    assert arrays(made.model)["c2.w_scale"].size == 1


def test_pruned_zeros_stay_exact_zeros(convnet, rows, arrays):
    pruned = prune(convnet, PruneSettings(sparsity=0.8), Context()).model
    made = arrays(quantize(pruned, QuantizeSettings(), Context(rows)).model)
    assert not made["f1.w_zero_point"].any()
    assert made["f1.w_quantized"][arrays(pruned)["f1.w"] == 0].any() == np.False_


def test_nothing_is_printed_or_logged_and_logging_is_left_as_it_was(convnet, rows, capfd):
    handlers = list(logging.getLogger().handlers)
    quantize(convnet, QuantizeSettings(method="entropy"), Context(rows))
    assert capfd.readouterr() == ("", "")
    assert logging.getLogger().handlers == handlers
    assert not logging.getLogger().disabled


def test_an_excluded_node_stays_in_float(convnet, rows, arrays):
    for index, node in enumerate(convnet.graph.node):
        node.name = f"n{index}"
    made = quantize(convnet, QuantizeSettings(exclude=("n6",)), Context(rows))
    assert arrays(made.model)["f1.w"].dtype == np.float32
    with pytest.raises(ConfigError, match=r"quantize\.exclude: no node 'n66'"):
        quantize(convnet, QuantizeSettings(exclude=("n66",)), Context(rows))


def test_a_quantized_model_is_refused_by_node(convnet, rows):
    made = quantize(convnet, QuantizeSettings(), Context(rows)).model
    with pytest.raises(TechniqueError, match=r"quantized already: node '.*' is a (Deq|Q)uantizeLi"):
        quantize(made, QuantizeSettings(), Context(rows))


def test_calibration_inputs_must_fit_and_be_there(convnet, rows):
    with pytest.raises(TechniqueError, match="needs calibration inputs"):
        quantize(convnet, QuantizeSettings(), Context())
    with pytest.raises(TechniqueError, match="lack the model's input 'x'; they have z"):
        quantize(convnet, QuantizeSettings(), Context({"z": rows["x"]}))


def test_no_files_are_left_behind(convnet, rows, tmp_path):
    quantize(convnet, QuantizeSettings(), Context(rows, work_dir=tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_nodes_are_put_in_order_again(convnet, evaluate, rows):
    from mlflow_compress.techniques.graph.walk import clone, sort_nodes

    shuffled = clone(convnet)
    nodes = list(clone(convnet).graph.node)
    del shuffled.graph.node[:]
    shuffled.graph.node.extend(nodes[::-1])
    sort_nodes(shuffled.graph)
    onnx.checker.check_model(shuffled)
    np.testing.assert_array_equal(evaluate(shuffled, rows), evaluate(convnet, rows))


@pytest.mark.parametrize("method", ["percentile", "entropy"])
def test_histograms_are_made_of_as_many_activations_as_there_is_room_for(
    convnet, rows, evaluate, monkeypatch, method
):
    held = []
    collect = calibrate.HistogramCollector.collect

    def seen(self, values):
        held.append(sum(part.nbytes for parts in values.values() for part in parts))
        return collect(self, values)

    monkeypatch.setattr(calibrate.HistogramCollector, "collect", seen)
    whole = quantize(convnet, QuantizeSettings(method=method), Context(rows))
    (most,) = held
    held.clear()
    monkeypatch.setattr(onnx_calibration, "_AT_ONCE", 8)
    monkeypatch.setattr(onnx_calibration, "_HELD", most // 4)
    made = quantize(convnet, QuantizeSettings(method=method), Context(rows))
    assert len(held) >= 4
    assert max(held) <= most // 4
    assert sum(held) == most
    one, two = evaluate(whole.model, rows), evaluate(made.model, rows)
    assert ((one - two) ** 2).mean() < 0.01 * one.var()
