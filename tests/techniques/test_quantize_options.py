"""Equalization, bias correction and the choice of layers that stay in float."""

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from mlflow_compress.errors import ConfigError, TechniqueError
from mlflow_compress.techniques import Context
from mlflow_compress.techniques.channels.equalize import equalize
from mlflow_compress.techniques.graph import running as onnx_run
from mlflow_compress.techniques.graph.walk import initializers, set_initializer
from mlflow_compress.techniques.quantize import QuantizeSettings
from mlflow_compress.techniques.quantize.onnx import prepare, quantize
from mlflow_compress.techniques.quantize.sensitivity import layer_losses, rounded_weights

PLAIN = QuantizeSettings(per_channel=False, reduce_range=True)
# 7-bit weights: on processors without VNNI, 8-bit products saturate and hide what is tested


def error(evaluate, model, other, inputs) -> float:
    a, b = evaluate(model, inputs), evaluate(other, inputs)
    return float(((a - b) ** 2).mean() / a.var())


def scaled(model, name, factors, axis):
    tensor = initializers(model)[name]
    array = numpy_helper.to_array(tensor)
    shape = [-1 if k == axis else 1 for k in range(array.ndim)]
    set_initializer(tensor, array * factors.reshape(shape))


@pytest.fixture
def uneven(convnet, rng):
    """The convnet with channels of very different ranges; it computes the same."""
    for index, node in enumerate(convnet.graph.node):
        node.name = f"n{index}"
    for maker, axis, reader, inputs, repeat in (
        ("c1", 0, "c2.w", 1, 1),
        ("c2", 0, "f1.w", 1, 9),
        ("f1", 0, "f2.w", 0, 1),
    ):
        width = initializers(convnet)[f"{maker}.w"].dims[axis]
        factors = np.exp(rng.normal(0, 2, width))
        scaled(convnet, f"{maker}.w", factors, axis)
        scaled(convnet, f"{maker}.b", factors, 0)
        scaled(convnet, reader, np.repeat(1 / factors, repeat), inputs)
    return convnet


def ranges(arrays, name, axis):
    others = tuple(k for k in range(arrays[name].ndim) if k != axis)
    return np.abs(arrays[name]).max(axis=others)


def test_equalizing_brings_ranges_together_and_changes_no_output(uneven, rows, evaluate, arrays):
    made, notes = equalize(uneven, Context(rows))
    assert notes == ("88 channels were equalized",)
    np.testing.assert_allclose(evaluate(made, rows), evaluate(uneven, rows), rtol=1e-3, atol=1e-4)
    held = arrays(made)
    np.testing.assert_allclose(ranges(held, "c1.w", 0), ranges(held, "c2.w", 1), rtol=2e-2)
    np.testing.assert_allclose(ranges(held, "f1.w", 0), ranges(held, "f2.w", 0), rtol=2e-2)
    before, after = ranges(arrays(uneven), "c2.w", 0), ranges(held, "c2.w", 0)
    assert after.max() / after.min() < 0.1 * before.max() / before.min()


def test_equalizing_saves_a_model_that_one_scale_per_tensor_ruins(uneven, rows, evaluate):
    def loss(**options):
        settings = QuantizeSettings(per_channel=False, reduce_range=True, **options)
        return error(evaluate, uneven, quantize(uneven, settings, Context(rows)).model, rows)

    ruined = loss()
    assert ruined > 0.1
    assert loss(equalize=True) < 0.05 * ruined


def test_a_depthwise_layer_and_a_residual_sum_are_equalized(build, rng, evaluate, rows):
    def weight(*shape):
        return (rng.normal(size=shape) * np.exp(rng.normal(0, 1.5, (shape[0], 1, 1, 1)))).astype(
            np.float32
        )

    arrays = {
        "a": weight(6, 1, 3, 3), "d": weight(6, 1, 3, 3), "db": weight(6, 1, 1, 1).ravel(),
        "p": weight(6, 6, 1, 1), "z": weight(4, 6, 1, 1), "two": np.float32(2),
    }  # fmt: skip
    pads = [1, 1, 1, 1]
    nodes = [
        helper.make_node("Conv", ["x", "a"], ["1"], pads=pads),
        helper.make_node("Relu", ["1"], ["2"]),
        helper.make_node("Conv", ["2", "d", "db"], ["3"], group=6, pads=pads),
        helper.make_node("Relu", ["3"], ["4"]),
        helper.make_node("Conv", ["4", "p"], ["5"]),
        helper.make_node("Mul", ["5", "two"], ["6"]),
        helper.make_node("Add", ["6", "2"], ["7"]),
        helper.make_node("Conv", ["7", "z"], ["y"]),
    ]
    model = build(nodes, arrays, [("x", ["n", 1, 12, 12])], [("y", ["n", 4, 12, 12])])
    made, notes = equalize(model, Context(rows))
    assert int(notes[0].split()[0]) >= 10  # of 12, where both sides were not alike before
    np.testing.assert_allclose(evaluate(made, rows), evaluate(model, rows), rtol=1e-3, atol=1e-3)
    held = {t.name: numpy_helper.to_array(t) for t in made.graph.initializer}
    np.testing.assert_allclose(ranges(held, "d", 0), ranges(held, "p", 1), rtol=2e-2)


@pytest.mark.parametrize(
    ("op", "other"), [("Clip", "low"), ("Add", "one"), ("Max", "one"), ("Sigmoid", None)]
)
def test_what_is_not_scale_free_keeps_its_channels(build, rng, rows, op, other):
    arrays = {
        "a": rng.normal(size=(6, 1, 3, 3)).astype(np.float32),
        "z": rng.normal(size=(4, 6, 1, 1)).astype(np.float32),
        "low": np.float32(-0.5),
        "one": np.full((1, 1, 1, 1), 1, np.float32),
    }
    nodes = [
        helper.make_node("Conv", ["x", "a"], ["1"]),
        helper.make_node(op, ["1"] + ([other] if other else []), ["2"]),
        helper.make_node("Conv", ["2", "z"], ["y"]),
    ]
    model = build(nodes, arrays, [("x", ["n", 1, 12, 12])], [("y", ["n", 4, 10, 10])])
    made, notes = equalize(model, Context(rows))
    assert made is model
    assert notes[0].startswith(f"no channels could be equalized: {op} '2'")


def test_equalizing_that_changes_outputs_is_refused(uneven, rows, monkeypatch):
    monkeypatch.setattr(onnx_run, "_TOLERANCE", -1.0)
    with pytest.raises(TechniqueError, match="equalizing changes output 'y' by"):
        quantize(uneven, QuantizeSettings(equalize=True), Context(rows))


def test_corrected_biases_keep_mean_outputs(convnet, rows, evaluate):
    errors = {}
    rows = {"x": np.abs(rows["x"])}  # inputs with a mean, as after a Relu
    for correct in (False, True):
        settings = QuantizeSettings(per_channel=False, reduce_range=True, correct_bias=correct)
        made = quantize(convnet, settings, Context(rows)).model
        shift = evaluate(made, rows).mean(axis=0) - evaluate(convnet, rows).mean(axis=0)
        errors[correct] = float(np.abs(shift).mean())
    assert errors[True] < 0.7 * errors[False]


def test_a_layer_without_a_bias_gets_one_when_biases_are_corrected(build, rng, arrays):
    weights = {"a": rng.normal(size=(6, 1, 3, 3)).astype(np.float32)}
    node = helper.make_node("Conv", ["x", "a"], ["y"])
    model = build([node], weights, [("x", ["n", 1, 12, 12])], [("y", ["n", 6, 10, 10])])
    rows = {"x": rng.random((16, 1, 12, 12)).astype(np.float32)}
    made = quantize(model, QuantizeSettings(correct_bias=True), Context(rows)).model
    assert arrays(made)["a_bias_quantized"].dtype == np.int32
    assert len(model.graph.node[0].input) == 2


def test_weights_are_rounded_as_onnxruntime_rounds_them(convnet, rows, arrays):
    for per_channel in (True, False):
        for reduce_range in (True, False):
            settings = QuantizeSettings(per_channel=per_channel, reduce_range=reduce_range)
            held = arrays(quantize(convnet, settings, Context(rows)).model)
            told = rounded_weights(convnet, settings)
            shape = (-1, 1, 1, 1) if per_channel else ()
            there = held["c2.w_quantized"] * held["c2.w_scale"].reshape(shape)
            np.testing.assert_allclose(told["c2.w"], there, atol=1e-6)


def test_the_most_sensitive_layer_stays_in_float(convnet, rows, evaluate, arrays):
    for index, node in enumerate(convnet.graph.node):
        node.name = f"n{index}"
    tensor = initializers(convnet)["c2.w"]
    array = numpy_helper.to_array(tensor).copy()
    array[3, 5, 1, 1] = 40  # one weight takes the range of all
    set_initializer(tensor, array)
    losses = layer_losses(convnet, PLAIN, rows)
    assert set(losses) == {"n0", "n3", "n6", "n8"}
    assert max(losses, key=lambda name: losses[name]) == "n3"
    settings = QuantizeSettings(per_channel=False, reduce_range=True, keep_float=1)
    made = quantize(convnet, settings, Context(rows))
    assert made.notes[0].startswith(f"n3 ({losses['n3']:.2g}) stays in float")
    assert arrays(made.model)["c2.w"].dtype == np.float32
    bare = quantize(convnet, PLAIN, Context(rows)).model
    errors = [error(evaluate, convnet, model, rows) for model in (made.model, bare)]
    assert errors[0] < 0.5 * errors[1]


def test_as_many_layers_as_it_takes_stay_in_float(uneven, convnet, rows):
    settings = QuantizeSettings(per_channel=False, reduce_range=True, keep_float=-1)
    _, found, _ = prepare(uneven, settings, Context(rows))
    assert 1 <= len(found.exclude) <= 2 and found.keep_float == 0
    settings = QuantizeSettings(keep_float=-1, equalize=True)
    _, found, notes = prepare(uneven, settings, Context(rows))
    assert found.exclude == ()
    assert notes[1].startswith("no layer stays in float")


def test_excluded_layers_are_not_chosen_again_and_something_must_be_left(uneven, rows):
    settings = QuantizeSettings(exclude=("n0", "n3"), keep_float=1)
    _, found, _ = prepare(uneven, settings, Context(rows))
    assert found.exclude[:2] == ("n0", "n3") and found.exclude[2] in ("n6", "n8")
    with pytest.raises(ConfigError, match=r"keep_float: 2 leaves nothing .*has 2 layers"):
        settings = QuantizeSettings(exclude=("n0", "n3"), keep_float=2)
        quantize(uneven, settings, Context(rows))
    with pytest.raises(ConfigError, match=r"quantize\.keep_float must be at least -1, got -2"):
        QuantizeSettings(keep_float=-2)


def test_all_options_together_give_a_valid_model(uneven, rows, evaluate):
    settings = QuantizeSettings(equalize=True, correct_bias=True, keep_float=1)
    before = uneven.SerializeToString()
    one, two = (quantize(uneven, settings, Context(rows)).model for _ in range(2))
    onnx.checker.check_model(one, full_check=True)
    assert one.SerializeToString() == two.SerializeToString()
    assert uneven.SerializeToString() == before
    assert error(evaluate, uneven, one, rows) < 0.02
