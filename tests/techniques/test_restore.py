"""The technique ``repair``: each kind of change helps, keeps what it must, and is undone if not."""

import numpy as np
import pytest
from onnx import helper, numpy_helper

from mlflow_compress.errors import ConfigError, TechniqueError
from mlflow_compress.records import Recipe, Step
from mlflow_compress.techniques import Context, OrderError, apply_recipe, get, validate_recipe
from mlflow_compress.techniques.graph.running import all_outputs, output_change
from mlflow_compress.techniques.repair import RepairSettings


def change(source, model, x) -> float:
    return output_change(all_outputs(source, [{"x": x}]), all_outputs(model, [{"x": x}]))


def applied(source, rows, *steps):
    recipe = Recipe(tuple(Step(name, settings) for name, settings in steps))
    return apply_recipe(source, recipe, Context(calibration=rows))


def fresh(rng, like):
    return rng.normal(size=(256, *like.shape[1:])).astype(np.float32)


def values_of(model) -> dict[str, np.ndarray]:
    return {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}


@pytest.fixture
def many(rng):
    return {"x": rng.normal(size=(320, 1, 12, 12)).astype(np.float32)}


@pytest.mark.parametrize("lossy", [("share", {"clusters": 4}), ("prune", {"sparsity": 0.8})])
def test_refitted_weights_bring_the_outputs_back_on_rows_never_seen(convnet, many, rng, lossy):
    before = applied(convnet, many, lossy)
    after = applied(convnet, many, lossy, ("repair", {}))
    x = fresh(rng, many["x"])
    assert change(convnet, after.model, x) < 0.7 * change(convnet, before.model, x)


def test_shared_weights_stay_shared_and_pruned_ones_zero(convnet, many):
    steps = (("prune", {"sparsity": 0.6}), ("share", {"clusters": 8, "biases": False}))
    before = values_of(applied(convnet, many, *steps).model)
    after = values_of(applied(convnet, many, *steps, ("repair", {})).model)
    changed = 0
    for name in ("c1.w", "c2.w", "f1.w", "f2.w"):
        zeros = before[name] == 0
        assert np.array_equal(after[name] == 0, zeros)
        for value in np.unique(before[name][~zeros]):
            assert len(np.unique(after[name][before[name] == value])) == 1
        changed += not np.array_equal(before[name], after[name])
    assert changed >= 2


def test_without_weights_only_biases_move(convnet, many, rng):
    before = applied(convnet, many, ("prune", {"sparsity": 0.8}))
    after = applied(convnet, many, ("prune", {"sparsity": 0.8}), ("repair", {"weights": False}))
    old, new = values_of(before.model), values_of(after.model)
    assert {name for name in old if not np.array_equal(old[name], new[name])} == {
        "c1.b", "c2.b", "f1.b", "f2.b",
    }  # fmt: skip
    x = fresh(rng, many["x"])
    assert change(convnet, after.model, x) < change(convnet, before.model, x)


def test_biases_of_a_static_quantized_model_move_too(convnet, many, rng):
    steps = [("quantize", {"per_channel": False, "reduce_range": True})]
    before = applied(convnet, many, *steps)
    after = applied(convnet, many, *steps, ("repair", {"rows": 2000}))
    old, new = values_of(before.model), values_of(after.model)
    moved = [name for name in old if not np.array_equal(old[name], new[name])]
    assert moved
    assert {old[name].dtype for name in moved} == {np.dtype(np.int32)}
    x = fresh(rng, many["x"])
    assert change(convnet, after.model, x) < change(convnet, before.model, x)


def norm_net(build, rng):
    """Conv, BatchNormalization and Gemm on [n, 2, 6, 6]."""
    f32 = np.float32
    arrays = {
        "w": rng.normal(0, 0.4, (6, 2, 3, 3)).astype(f32),
        "scale": np.r_[rng.uniform(0.5, 2, 5), 0].astype(f32),  # a channel that is switched off
        "shift": rng.normal(0, 0.5, 6).astype(f32),
        "mean": rng.normal(0, 0.3, 6).astype(f32),
        "var": rng.uniform(0.5, 2, 6).astype(f32),
        "f": rng.normal(0, 0.2, (96, 5)).astype(f32),
    }
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a"]),
        helper.make_node("BatchNormalization", ["a", "scale", "shift", "mean", "var"], ["b"]),
        helper.make_node("Relu", ["b"], ["c"]),
        helper.make_node("Flatten", ["c"], ["d"]),
        helper.make_node("Gemm", ["d", "f"], ["y"]),
    ]
    return build(nodes, arrays, [("x", ["n", 2, 6, 6])], [("y", ["n", 5])])


def test_the_statistics_of_batch_normalization_follow_the_changed_weights(build, rng):
    source = norm_net(build, rng)
    rows = {"x": rng.uniform(0, 1, (320, 2, 6, 6)).astype(np.float32)}
    steps = [("prune", {"sparsity": 0.6, "exclude": ["f"]})]
    only = ("repair", {"weights": False, "biases": False})
    before, after = applied(source, rows, *steps), applied(source, rows, *steps, only)
    old, new = values_of(before.model), values_of(after.model)
    assert {n for n in old if not np.array_equal(old[n], new[n])} == {"mean", "var"}
    assert new["mean"][5] == old["mean"][5] and new["var"][5] == old["var"][5]
    x = rng.uniform(0, 1, (256, 2, 6, 6)).astype(np.float32)
    assert change(source, after.model, x) < 0.9 * change(source, before.model, x)


def test_what_makes_held_back_rows_worse_is_undone_and_said(build, rng):
    """Rows that are held back look nothing like those that are fitted to."""
    net = build(
        [
            helper.make_node("Gemm", ["x", "w", "b"], ["h"], transB=1),
            helper.make_node("Relu", ["h"], ["y"]),
        ],
        {
            "w": rng.normal(0, 1, (6, 40)).astype(np.float32),
            "b": np.zeros(6, np.float32),
        },
        [("x", ["n", 40])],
        [("y", ["n", 6])],
    )
    x = rng.normal(3, 1, (50, 40)).astype(np.float32)
    x[::5] = rng.normal(-3, 1, (10, 40))
    before = applied(net, {"x": x}, ("prune", {"sparsity": 0.9}))
    after = applied(net, {"x": x}, ("prune", {"sparsity": 0.9}), ("repair", {"weights": False}))
    assert any("biases: undone" in note for note in after.notes)
    assert after.model == before.model


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["repair"], "repair cannot come first"),
        (["fold", "repair", "prune"], "repair cannot come first"),
        (["prune", "repair", "repair"], "repair cannot come twice in a row"),
        (["share", "repair", "prune"], "prune cannot come after share"),
        (["share", "trim", "repair"], "repair cannot come after trim, which renames"),
    ],
)
def test_a_repair_in_the_wrong_place_is_refused_by_name(names, message):
    with pytest.raises(OrderError, match=message):
        validate_recipe(Recipe(tuple(Step(name) for name in names)))


def test_a_repair_may_stand_behind_every_lossy_step():
    names = ["fold", "shrink", "repair", "prune", "repair", "share", "repair", "quantize", "repair"]
    assert validate_recipe(Recipe(tuple(Step(name) for name in names))).steps[2].settings == {}


def test_channels_that_are_gone_do_not_disturb_the_repair(convnet, many, rng):
    steps = [("shrink", {"ratio": 0.5, "repair": False})]
    before = applied(convnet, many, *steps)
    after = applied(convnet, many, *steps, ("repair", {}))
    x = fresh(rng, many["x"])
    assert change(convnet, after.model, x) < change(convnet, before.model, x)


def test_bad_settings_and_too_few_rows_are_refused(convnet, many):
    with pytest.raises(ConfigError, match="repair needs one of weights, norms and biases"):
        RepairSettings(weights=False, norms=False, biases=False)
    with pytest.raises(TechniqueError, match="at least 2 calibration rows, got 1"):
        applied(convnet, {"x": many["x"][:1]}, ("share", {}), ("repair", {}))
    with pytest.raises(TechniqueError, match="put it after a lossy technique"):
        get("repair").apply(convnet, RepairSettings(), Context(calibration=many))
