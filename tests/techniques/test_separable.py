"""Convolutions rewritten as depthwise and pointwise ones."""

import numpy as np
import onnx
import pytest
from onnx import helper

from mlflow_compress.errors import ConfigError, TechniqueError
from mlflow_compress.records import Recipe, Step
from mlflow_compress.techniques import Context, apply_recipe, get
from mlflow_compress.techniques.base import parse_settings
from mlflow_compress.techniques.numeric.factors import factorise, lost


def separable(model, rows=None, train=None, seed=0, **settings):
    context = Context(calibration=rows, train=train, source=model, seed=seed)
    technique = get("separable")
    return technique.apply(model, parse_settings(technique, settings), context)


def one_convolution(build, kernel, bias=None, **attributes):
    """Return a Conv on [n, c, ?, ?] followed by a BatchNormalization."""
    names = ["x", "w"] + ([] if bias is None else ["b"])
    outputs = len(kernel)
    held = {
        "w": kernel,
        "scale": np.linspace(0.5, 2, outputs),
        "shift": np.linspace(-1, 1, outputs),
        "mean": np.linspace(1, -1, outputs),
        "variance": np.linspace(0.5, 1.5, outputs),
    }
    if bias is not None:
        held["b"] = bias
    channels = kernel.shape[1] * attributes.get("group", 1)
    free = [None] * (kernel.ndim - 2)
    return build(
        [
            helper.make_node("Conv", names, ["h"], **attributes),
            helper.make_node(
                "BatchNormalization", ["h", "scale", "shift", "mean", "variance"], ["y"]
            ),
        ],
        {name: array.astype(np.float32) for name, array in held.items()},
        [("x", ["n", channels, *free])],
        [("y", ["n", outputs, *free])],
    )


def low_rank(rng, outputs, channels, rank, *places):
    points = rng.normal(0, 1, (outputs, channels, rank))
    filters = rng.normal(0, 1, (channels, rank, int(np.prod(places))))
    return np.einsum("ocr,crk->ock", points, filters).reshape(outputs, channels, *places)


SHAPES = {
    "plain": ((12, 6, 3, 3), {}),
    "strides and pads": ((12, 6, 5, 3), {"strides": [2, 1], "pads": [2, 1, 1, 0]}),
    "dilations": ((12, 6, 3, 3), {"dilations": [2, 2], "pads": [2, 2, 2, 2]}),
    "same": ((12, 6, 3, 3), {"auto_pad": "SAME_LOWER", "strides": [2, 2]}),
    "groups": ((12, 3, 3, 3), {"group": 2, "kernel_shape": [3, 3]}),
    "one axis": ((12, 6, 7), {"strides": [2], "pads": [3, 3]}),
}


@pytest.mark.parametrize("repair", [True, False])
@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("rank", [1, 2])
def test_kernels_of_low_rank_are_rewritten_exactly(build, rng, evaluate, name, repair, rank):
    shape, attributes = SHAPES[name]
    kernel = low_rank(rng, *shape[:2], rank, *shape[2:])
    bias = rng.normal(0, 1, shape[0]) if name != "same" else None
    model = one_convolution(build, kernel, bias, **attributes)
    channels = shape[1] * attributes.get("group", 1)
    rows = {"x": rng.normal(0.5, 1, (40, channels, *[11, 9][: len(shape) - 2])).astype(np.float32)}
    made = separable(model, rows, rank=rank, max_error=1e-3, repair=repair)
    parts = ["Conv"] if "group" in attributes else ["Conv"] * rank + ["Concat"] * (rank > 1)
    operators = [node.op_type for node in made.model.graph.node]
    assert operators == [*parts, "Conv", "BatchNormalization"]
    size = sum(np.prod(t.dims) for t in made.model.graph.initializer if "wise" in t.name)
    assert size < kernel.size + shape[0]
    for other in (rows["x"], rows["x"][:3, :, :7]):  # shapes are free
        before, after = evaluate(model, {"x": other}), evaluate(made.model, {"x": other})
        np.testing.assert_allclose(before, after, atol=2e-4 * np.abs(before).max())
    assert set(made.origin.values()) == {"w"}


def test_moments_of_the_inputs_make_a_better_start(rng):
    """Inputs with structure, as activations have it: neighbours are alike."""
    kernel = rng.normal(0, 1, (10, 4, 9))
    mixing = rng.normal(0, 1, (36, 5)) @ rng.normal(0, 1, (5, 36)) + 0.1 * rng.normal(
        0, 1, (36, 36)
    )
    moments = mixing @ mixing.T
    blind, seeing = factorise(kernel, None, 2), factorise(kernel, moments, 2)
    assert lost(kernel, seeing.kernel(), moments) < 0.5 * lost(kernel, blind.kernel(), moments)
    assert lost(kernel, blind.kernel(), None) < lost(kernel, seeing.kernel(), None)


def test_more_filters_lose_less(rng):
    kernel = rng.normal(0, 1, (10, 4, 9))
    errors = [
        lost(kernel, factorise(kernel, np.eye(36), rank).kernel(), None) for rank in (1, 4, 9)
    ]
    assert errors[0] > errors[1] > errors[2]
    assert errors[2] < 1e-8


def test_a_layer_that_would_lose_too_much_is_left_alone(convnet, rows):
    made = separable(convnet, rows, rank=1, max_error=0.001)
    assert made.model.SerializeToString() == convnet.SerializeToString()
    assert all("left alone" in note and "max_error is 0.001" in note for note in made.notes)


def test_a_layer_that_would_not_get_smaller_is_left_alone(convnet, rows):
    made = separable(convnet, rows, rank=16, max_error=1.0)
    assert made.notes == tuple(
        f"{name} is left alone: it would not get smaller" for name in ("c1.w", "c2.w")
    )
    assert len(made.model.graph.node) == len(convnet.graph.node)


def test_rank_0_takes_the_fewest_filters_that_lose_little_enough(convnet, rows):
    def rank_of(max_error):
        made = separable(convnet, rows, rank=0, max_error=max_error, layers=["c2*"])
        return sum("c2.w_depthwise" in t.name for t in made.model.graph.initializer)

    loose, tight = rank_of(0.4), rank_of(0.1)
    assert 1 <= loose < tight
    made = separable(convnet, rows, rank=loose, max_error=0.1, layers=["c2*"])
    assert "would lose" in made.notes[0]


def test_layers_and_exclude_choose(convnet, rows):
    made = separable(convnet, rows, max_error=1.0, layers=["c*"], exclude=["c1.?"])
    assert set(made.origin.values()) == {"c2.w"}
    for key in ("layers", "exclude"):
        with pytest.raises(ConfigError, match=f"separable.{key}: 'c9' fits no convolution"):
            separable(convnet, rows, **{key: ["c9"]})


def test_what_is_separable_already_is_refused(build, rng):
    depthwise = one_convolution(build, rng.normal(0, 1, (6, 1, 3, 3)), group=6)
    pointwise = one_convolution(build, rng.normal(0, 1, (6, 6, 1, 1)))
    for model in (depthwise, pointwise):
        with pytest.raises(TechniqueError, match="nothing to rewrite"):
            separable(model, repair=False)


def test_repair_brings_the_outputs_closer(convnet, rows, evaluate):
    held = {"x": np.random.default_rng(11).normal(0, 1, (64, 1, 12, 12)).astype(np.float32)}
    wanted = evaluate(convnet, held)

    def error(**settings):
        made = separable(convnet, rows, rank=2, max_error=1.0, **settings).model
        return float(((evaluate(made, held) - wanted) ** 2).mean() / wanted.var())

    assert error() < 0.7 * error(repair=False)


def shapes_in_noise(rows, seed):
    """One of ten shapes of 8x8 somewhere in each image of 12x12."""
    shapes = np.random.default_rng(0).normal(0, 1, (10, 8, 8))
    rng = np.random.default_rng(seed)
    images = rng.normal(0, 0.5, (rows, 1, 12, 12))
    labels = rng.integers(0, 10, rows)
    for row, (top, left) in enumerate(rng.integers(0, 5, (rows, 2))):
        images[row, 0, top : top + 8, left : left + 8] += shapes[labels[row]]
    return {"x": images.astype(np.float32)}, labels


def test_distillation_brings_back_accuracy_that_repair_does_not(convnet, evaluate):
    pytest.importorskip("torch")
    from mlflow_compress.techniques.data import TrainData

    train = TrainData(*shapes_in_noise(3000, 1), digest="task")
    inputs, labels = shapes_in_noise(1000, 2)

    def trained(model, name, **settings):
        step = Step(name, {"batch": 64, **settings})
        return apply_recipe(model, Recipe((step,)), Context(train=train))

    def right(model):
        return float((evaluate(model, inputs).argmax(1) == labels).mean())

    learn = {"epochs": 4, "learning_rate": 5e-3, "label_share": 1.0}
    source = trained(convnet, "distill", **learn).model
    rewrite = {"layers": ["c2.w"], "learning_rate": 3e-3}
    repaired = trained(source, "separable", epochs=0, **rewrite)
    taught = trained(source, "separable", epochs=4, **rewrite)
    onnx.checker.check_model(taught.model, full_check=True)
    assert right(source) > 0.8
    assert right(source) - right(taught.model) < 0.6 * (right(source) - right(repaired.model))
    assert any("trained for 4 epochs" in note for note in taught.notes)


def test_it_goes_before_pruning_and_sharing(convnet, rows, evaluate):
    steps = (Step("separable", {"max_error": 1.0}), Step("prune", {}), Step("share", {}))
    made = apply_recipe(convnet, Recipe(steps), Context(calibration=rows))
    assert made.origin["c2.w_depthwise"] == "c2.w"
    assert np.isfinite(evaluate(made.model, rows)).all()


def test_dead_and_constant_inputs_are_no_obstacle(rng):
    """Channels that are always zero, or the same, or of another order of magnitude."""
    kernel = rng.normal(0, 1, (10, 5, 9))
    inputs = rng.normal(0, 1, (400, 5, 9)) * np.array([1.0, 0.0, 1e-6, 1e3, 1.0])[None, :, None]
    inputs[:, 4] += 1e4
    flat = inputs.reshape(400, 45).astype(np.float32)
    means = flat.mean(axis=0, dtype=np.float64)
    moments = flat.T.astype(np.float64) @ flat / 400 - means[:, None] * means
    made = factorise(kernel, moments - 1e-4 * np.eye(45), 2)
    assert np.isfinite(made.kernel()).all()
    assert lost(kernel, made.kernel(), moments) < 0.5
    assert np.isfinite(factorise(kernel, np.zeros((45, 45)), 1).kernel()).all()
