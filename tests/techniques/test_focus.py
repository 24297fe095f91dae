"""Which rows count when layers are refitted."""

import numpy as np
import pytest
from onnx import helper, numpy_helper

from mlflow_compress.techniques.fitting.focus import Focus
from mlflow_compress.techniques.fitting.least_squares import Moments, refit_layer, repair, tapped
from mlflow_compress.techniques.graph.layers import linear_layers
from mlflow_compress.techniques.graph.walk import clone, initializers, set_initializer


def fed(rows, size=32):
    return [{"x": rows["x"][i : i + size]} for i in range(0, len(rows["x"]), size)]


def layer_of(model, weight):
    return next(layer for layer in linear_layers(model) if layer.weight == weight)


@pytest.mark.parametrize("softmax", [False, True])
def test_rows_between_two_classes_count_more(build, softmax):
    nodes = [helper.make_node("MatMul", ["x", "w"], ["z" if softmax else "y"])]
    if softmax:
        nodes.append(helper.make_node("Softmax", ["z"], ["y"]))
    model = build(nodes, {"w": np.eye(3, dtype=np.float32)}, [("x", ["n", 3])], [("y", ["n", 3])])
    x = np.array([[9, 0, 0], [5, 5, 0], [0, 0, 9], [3, 3, 3]], np.float32)
    (first, second) = Focus.of(model, [{"x": x[:2]}, {"x": x[2:]}]).rows
    weights = np.concatenate([first, second])
    assert weights.mean() == pytest.approx(1)
    assert weights[0] == pytest.approx(weights[2])
    assert 0.5 < weights[0] < 0.55 < weights[1] < weights[3]


@pytest.mark.parametrize("case", ["certain", "image", "fixed state"])
def test_all_rows_count_alike_where_nothing_can_be_told(build, convnet, rows, case):
    if case == "certain":
        held = {"w": np.float32([[90, 0], [0, 90]])}
        model = build(
            [helper.make_node("MatMul", ["x", "w"], ["y"])], held, [("x", ["n", 2])],
            [("y", ["n", 2])],
        )  # fmt: skip
        batch = {"x": np.eye(2, dtype=np.float32)}
    elif case == "image":
        model, batch = tapped(convnet, ["b"]), rows
    else:
        batch = {"x": rows["x"], "state": np.zeros((3, 2), np.float32)}
        model = clone(convnet)
        model.graph.input.add().CopyFrom(helper.make_tensor_value_info("state", 1, ["m", 2]))
    assert Focus.of(model, [batch]).rows is None


def test_places_count_as_often_as_the_pool_takes_them(convnet, rows, evaluate):
    focus = Focus.of(convnet, fed(rows))
    before = evaluate(tapped(convnet, ["b"]), rows)
    windows = before.reshape(len(before), 8, 5, 2, 5, 2)
    best = windows.max(axis=(3, 5), keepdims=True)
    taken = ((windows == best) & (windows > 0)).sum(axis=1).reshape(len(before), -1)
    np.testing.assert_array_equal(np.concatenate(focus.wins["c1.w"]), taken.ravel())
    assert set(focus.wins) == {"c1.w"}  # nothing pools the second


def test_global_pools_and_several_readers(build, rng):
    weights = rng.normal(size=(6, 4, 3)).astype(np.float32)
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a"]),
        helper.make_node("Sigmoid", ["a"], ["b"]),
        helper.make_node("Mul", ["a", "b"], ["c"]),
        helper.make_node("GlobalMaxPool", ["c"], ["y"]),
    ]
    ends = [("x", ["n", 4, 9])], [("y", ["n", 6, 1])]
    model = build(nodes, {"w": weights}, *ends)
    x = rng.normal(size=(5, 4, 9)).astype(np.float32)
    (wins,) = Focus.of(model, [{"x": x}]).wins["w"]
    assert wins.shape == (5 * 7,)
    assert (wins.reshape(5, 7).sum(axis=1) == 6).all()
    leaky = [*nodes, helper.make_node("ReduceMean", ["c"], ["z"])]
    both = build(leaky, {"w": weights}, ends[0], [*ends[1], ("z", [1, 1, 1])])
    assert not Focus.of(both, [{"x": x}]).wins


def test_what_is_drawn_are_places_that_win_and_their_rows_weights(convnet, rows):
    focus = Focus.of(convnet, fed(rows))
    layer, x, rng = layer_of(convnet, "c1.w"), rows["x"][:32], np.random.default_rng(0)
    wins = focus.wins["c1.w"][0]
    chosen, weights = focus.draw(layer, x, (8, 1, 3, 3), 10**6, rng, 0)
    np.testing.assert_array_equal(chosen, np.flatnonzero(wins))
    np.testing.assert_allclose(
        weights, wins[chosen] / wins.mean() * focus.rows[0][chosen // 100], rtol=1e-6
    )
    few, weights = focus.draw(layer, x, (8, 1, 3, 3), 500, rng, 0)
    assert len(few) == 500
    assert wins[few].all()
    assert wins[few].mean() > 1.2 * wins[wins > 0].mean()
    np.testing.assert_allclose(weights, focus.rows[0][few // 100])


def test_too_many_places_are_not_kept(convnet, rows, monkeypatch):
    monkeypatch.setattr("mlflow_compress.techniques.fitting.focus._WIN_BYTES", 100)
    focus = Focus.of(convnet, fed(rows))
    assert not focus.wins
    assert len(focus.rows) == 3


def test_steps_of_recurrent_layers_have_their_rows_weights(build, rng):
    arrays = {
        "w": rng.normal(size=(1, 8, 3)).astype(np.float32),
        "r": rng.normal(size=(1, 8, 2)).astype(np.float32),
    }
    model = build(
        [helper.make_node("LSTM", ["x", "w", "r"], ["y"], hidden_size=2)], arrays,
        [("x", [4, "n", 3])], [("y", [4, 1, "n", 2])],
    )  # fmt: skip
    focus = Focus(rows=[np.array([1.0, 2.0, 3.0])])
    x = rng.normal(size=(4, 3, 3)).astype(np.float32)
    _, weights = focus.draw(layer_of(model, "w"), x, (1, 8, 3), 99, rng, 0)
    np.testing.assert_array_equal(weights, [1, 2, 3] * 4)


def test_weighted_moments_are_those_of_repeated_rows(rng):
    x, y = rng.normal(size=(1, 6, 3)), rng.normal(size=(1, 6, 2))
    counts = np.array([1, 2, 0, 3, 1, 1])
    one, two = Moments.empty(1, 3, 2), Moments.empty(1, 3, 2)
    one.add(x, y, counts.astype(float))
    two.add(np.repeat(x, counts, axis=1), np.repeat(y, counts, axis=1))
    np.testing.assert_allclose(one.gram, two.gram, atol=1e-4)
    np.testing.assert_allclose(one.cross, two.cross, atol=1e-4)
    assert one.count == two.count == 8


def test_the_refit_is_closest_where_it_counts(build, rng):
    """Half of the rows follow one law, the others another, and one weight is gone."""
    x = rng.normal(size=(400, 4)).astype(np.float32)
    x[:200, 0] = x[:200, 1] + 0.1 * x[:200, 0]
    x[200:, 0] = -x[200:, 1] + 0.1 * x[200:, 0]
    held = {"w": rng.normal(size=(4, 3)).astype(np.float32) + 1}
    model = build(
        [helper.make_node("MatMul", ["x", "w"], ["y"])], held, [("x", ["n", 4])],
        [("y", ["n", 3])],
    )  # fmt: skip
    errors = []
    for favoured in (0, 1):
        changed = clone(model)
        pruned = held["w"].copy()
        pruned[0] = 0
        set_initializer(initializers(changed)["w"], pruned)
        moments = Moments.empty(1, 4, 3)
        weights = np.where((np.arange(400) >= 200) == bool(favoured), 1.9, 0.1)
        moments.add(x[None], (x @ held["w"])[None], weights)
        layer = layer_of(changed, "w")
        keep = layer.matrix(pruned != 0)
        refit_layer(changed, layer, keep, moments, Moments.empty(1, 4, 3))
        made = numpy_helper.to_array(initializers(changed)["w"])
        error = ((x @ made - x @ held["w"]) ** 2).sum(axis=1)
        errors.append((error[:200].sum(), error[200:].sum()))
    assert errors[0][0] < 0.1 * errors[0][1]
    assert errors[1][1] < 0.1 * errors[1][0]


def test_the_repair_uses_them(convnet, rows, arrays, monkeypatch):
    masks = {"f1.w": np.abs(arrays(convnet)["f1.w"]) > 0.05}
    changed = clone(convnet)
    set_initializer(
        initializers(changed)["f1.w"], np.where(masks["f1.w"], arrays(convnet)["f1.w"], 0)
    )
    made, _ = repair(convnet, changed, masks, rows)
    monkeypatch.setattr(Focus, "of", classmethod(lambda cls, model, given: cls()))
    even, _ = repair(convnet, changed, masks, rows)
    assert not np.array_equal(arrays(made)["f1.w"], arrays(even)["f1.w"])
