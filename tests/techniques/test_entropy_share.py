import numpy as np
import pytest
from onnx import helper

from mlflow_compress.errors import ConfigError, TechniqueError
from mlflow_compress.records import Recipe, Step
from mlflow_compress.techniques import Context, apply_recipe
from mlflow_compress.techniques.entropy_share import EntropyShareSettings
from mlflow_compress.techniques.entropy_share import onnx as onnx_entropy
from mlflow_compress.techniques.entropy_share.onnx import entropy_share
from mlflow_compress.techniques.graph.running import session
from mlflow_compress.techniques.numeric.rate import (
    Grid,
    choose_grid,
    entropy_bits,
    round_feedback,
    round_plain,
)
from mlflow_compress.techniques.prune import PruneSettings
from mlflow_compress.techniques.prune.onnx import prune
from mlflow_compress.techniques.share import ShareSettings
from mlflow_compress.techniques.share.onnx import share

WEIGHTS = ("c1.w", "c2.w", "f1.w", "f2.w")


def bits_each(arrays_by_name) -> float:
    spent = total = 0.0
    for name in WEIGHTS:
        counts = np.unique(arrays_by_name[name], return_counts=True)[1]
        spent -= (counts * np.log2(counts / counts.sum())).sum()
        total += counts.sum()
    return spent / total


def error(evaluate, model, other, inputs) -> float:
    a, b = evaluate(model, inputs), evaluate(other, inputs)
    return float(((a - b) ** 2).mean() / a.var())


@pytest.mark.parametrize("feedback", [True, False])
@pytest.mark.parametrize("bits", [1.0, 3.0])
def test_the_entropy_is_what_was_aimed_at(convnet, rows, arrays, bits, feedback):
    settings = EntropyShareSettings(bits=bits, feedback=feedback)
    made = entropy_share(convnet, settings, Context(rows))
    assert bits_each(arrays(made.model)) == pytest.approx(bits, rel=0.15)


def test_more_bits_less_error_and_feedback_beats_plain_rounding(convnet, rows, rng, evaluate):
    other = {"x": rng.normal(0, 1, (64, 1, 12, 12)).astype(np.float32)}

    def made(bits, feedback):
        settings = EntropyShareSettings(bits=bits, feedback=feedback)
        return error(
            evaluate, convnet, entropy_share(convnet, settings, Context(rows)).model, other
        )

    errors = {(b, f): made(b, f) for b in (1.0, 2.0, 4.0) for f in (True, False)}
    for feedback in (True, False):
        assert errors[1.0, feedback] > errors[2.0, feedback] > errors[4.0, feedback]
    for bits in (1.0, 2.0):
        assert errors[bits, True] < errors[bits, False]


def test_it_beats_k_means_at_the_same_entropy(convnet, rows, evaluate, arrays):
    shared = share(convnet, ShareSettings(clusters=6, biases=False)).model
    bits = bits_each(arrays(shared))
    settings = EntropyShareSettings(bits=bits, biases=False)
    made = entropy_share(convnet, settings, Context(rows)).model
    assert bits_each(arrays(made)) < bits * 1.06
    assert error(evaluate, convnet, made, rows) < 0.7 * error(evaluate, convnet, shared, rows)


def test_pruned_zeros_stay_zeros(convnet, rows, arrays):
    pruned = prune(convnet, PruneSettings(sparsity=0.7, repair=True), Context(rows)).model
    made = arrays(entropy_share(pruned, EntropyShareSettings(bits=1.5), Context(rows)).model)
    for name, before in arrays(pruned).items():
        if name in WEIGHTS:
            assert not made[name][before == 0].any()


def test_weights_lie_on_a_grid_and_biases_keep_eight_bits(convnet, rows, arrays):
    made = arrays(entropy_share(convnet, EntropyShareSettings(bits=2.0), Context(rows)).model)
    for name in WEIGHTS:
        values = np.unique(np.abs(made[name][made[name] != 0]).astype(np.float64))
        steps = values / values[0]
        scale = min(range(1, 13), key=lambda k: np.abs(steps * k - np.rint(steps * k)).max())
        np.testing.assert_allclose(steps * scale, np.rint(steps * scale), atol=1e-3)
    low_bytes = made["f1.b"].view(np.uint32) & 0xFFFF
    assert not low_bytes.any()


def test_excluded_tensors_and_biases_can_be_left_alone(convnet, rows, arrays):
    settings = EntropyShareSettings(bits=1.0, biases=False, feedback=False, exclude=("f1.w",))
    made, before = arrays(entropy_share(convnet, settings, Context()).model), arrays(convnet)
    np.testing.assert_array_equal(made["f1.w"], before["f1.w"])
    np.testing.assert_array_equal(made["f1.b"], before["f1.b"])
    assert np.unique(made["c2.w"]).size < 20
    with pytest.raises(ConfigError, match=r"entropy_share\.exclude: 'f9\.w'"):
        entropy_share(convnet, EntropyShareSettings(exclude=("f9.w",)), Context(rows))


def test_it_needs_calibration_only_for_feedback(convnet):
    with pytest.raises(TechniqueError, match="needs calibration"):
        apply_recipe(convnet, Recipe((Step("entropy_share", {}),)), Context())
    apply_recipe(convnet, Recipe((Step("entropy_share", {"feedback": False}),)), Context())


def test_it_is_deterministic(convnet, rows):
    settings = EntropyShareSettings(bits=1.0)
    one, two = (entropy_share(convnet, settings, Context(rows)).model for _ in range(2))
    assert one.SerializeToString() == two.SerializeToString()


def test_plain_rounding_takes_the_cheapest_of_the_near_points(rng):
    weights = rng.normal(size=200)
    grid = Grid(0.4, rng.uniform(0, 8, 255))
    price = 0.02
    made = round_plain(weights, np.array(1.0), grid, price)

    def cost(symbols):
        return (weights - grid.step * symbols) ** 2 + price * grid.bits[symbols + 127]

    near = np.rint(weights / grid.step).astype(int)
    for other in (near, near - np.sign(near), np.zeros_like(near)):
        assert (cost(made) <= cost(other) + 1e-12).all()


def test_a_higher_price_spends_fewer_bits(rng):
    weights = rng.normal(size=5000)
    spent = [entropy_bits(choose_grid(weights, np.array(1.0), p)[1]) for p in (1e-4, 1e-2, 1e-1, 1)]
    assert spent == sorted(spent, reverse=True)
    assert spent[0] > 5 * 5000 > 5000 > spent[-1]


def test_rounding_nears_the_bound_of_the_gaussian_source(rng):
    """At high rate a uniform quantizer with entropy coding stays 0.25 bit from the bound."""
    weights = rng.normal(size=40000)
    grid, symbols = choose_grid(weights, np.array(1.0), 3e-3)
    distortion = ((weights - grid.step * symbols) ** 2).mean()
    rate = entropy_bits(symbols) / weights.size
    assert 0 < rate - 0.5 * np.log2(1 / distortion) < 0.3


def test_feedback_reduces_the_output_error(rng):
    x = rng.normal(size=(500, 24)) @ rng.normal(size=(24, 24))
    weights = rng.normal(size=(16, 24))
    gram = x.T @ x
    energy = float(((weights @ gram) * weights).sum())
    grid = Grid(0.8, np.zeros(255))
    plain = grid.step * round_plain(weights, np.array(1.0), grid, 0.0)
    fed = grid.step * round_feedback(weights, gram, energy, grid, 0.0)

    def loss(made):
        return float(((x @ (made - weights).T) ** 2).sum())

    assert loss(fed) < 0.6 * loss(plain)


def test_a_tensor_of_zeros_is_left_as_it_is(convnet, rows, arrays):
    from mlflow_compress.techniques.graph.walk import clone, initializers, set_initializer

    model = clone(convnet)
    set_initializer(initializers(model)["c2.w"], np.zeros((16, 8, 3, 3)))
    made = arrays(entropy_share(model, EntropyShareSettings(bits=1.0), Context(rows)).model)
    assert not made["c2.w"].any()


@pytest.mark.parametrize("transposed", [False, True])
def test_a_wide_layer_is_fed_back_in_blocks(build, rng, monkeypatch, transposed):
    weights = rng.normal(size=(300, 40)).astype(np.float32)
    held = {"w": weights.T.copy() if transposed else weights, "b": np.zeros(40, np.float32)}
    node = helper.make_node("Gemm", ["x", "w", "b"], ["y"], transB=int(transposed))
    model = build([node], held, [("x", ["n", 300])], [("y", ["n", 40])])
    mix = rng.normal(size=(20, 300))
    x = rng.normal(size=(1000, 20)) @ mix + 0.3 * rng.normal(size=(1000, 300)) + 0.5
    x = x.astype(np.float32)
    expected = x @ weights

    def error(**settings):
        chosen = EntropyShareSettings(bits=2.0, **settings)
        made = entropy_share(model, chosen, Context(calibration={"x": x})).model
        given = session(made).run(None, {"x": x})[0]
        assert abs((given - expected).mean()) < 0.02 * abs(expected).mean()
        return float(((given - expected) ** 2).mean())

    whole = error()
    monkeypatch.setattr(onnx_entropy, "_WIDE", 100)
    monkeypatch.setattr(onnx_entropy, "_BLOCK", 128)  # the last block is filled up
    blocks = error()
    assert whole < blocks < error(feedback=False) / 4
