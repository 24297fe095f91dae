"""What each layer bears, and a byte budget shared out among layers."""

from itertools import product

import numpy as np
import pytest

from mlflow_compress import measure
from mlflow_compress.errors import ConfigError
from mlflow_compress.records import Output
from mlflow_compress.search.effects import Effect, allocate, sensitivity, sensitivity_rows
from mlflow_compress.techniques import Context, apply_recipe, normalize
from tests.tiny import CLASSES, tiny_model


@pytest.fixture(scope="module")
def measured():
    model = normalize(tiny_model())
    x = np.random.default_rng(1).normal(size=(400, 16)).astype(np.float32)
    rows = measure.Dataset({"x": x})
    levels = {"prune": (0.5, 0.9), "share": (2, 4, 16), "weight_only": (4,)}
    context = Context(calibration={"x": x})
    effects = sensitivity(model, rows, context, levels, outputs=CLASSES)
    return model, rows, context, effects


def test_every_layer_has_every_level(measured):
    effects = measured[3]
    assert [e.layer for e in effects] == ["w1"] * 7 + ["w2"] * 7
    assert (effects[0].technique, effects[0].kl, effects[0].agreement) == ("", 0, 1)
    assert effects[0].bytes == 16 * 64 * 4


def test_more_compression_takes_fewer_bytes_and_loses_more(measured):
    for layer in ("w1", "w2"):
        of = {(e.technique, e.level): e for e in measured[3] if e.layer == layer}
        hard, soft = of["share", 2], of["share", 16]
        assert hard.bytes < soft.bytes < of["", 0].bytes
        assert hard.kl > soft.kl > 0
        assert hard.agreement < soft.agreement
        assert of["prune", 0.9].kl > of["prune", 0.5].kl
        assert of["weight_only", 4].bytes < of["", 0].bytes / 4


def test_an_effect_is_what_the_recipe_does(measured):
    model, rows, context, effects = measured
    effect = next(e for e in effects if e.technique == "share" and e.level == 4)
    recipe = allocate([e for e in effects if e.layer == "w1" and e in (effect,)], effect.bytes)
    made = apply_recipe(model, recipe, context).model
    outputs, source = (measure.run(measure.open_session(m), rows) for m in (made, model))
    assert measure.measure_fidelity(outputs, source, rows, CLASSES).kl == pytest.approx(effect.kl)


def test_labels_give_accuracy_and_without_it_is_missing(measured):
    model, rows, context, effects = measured
    assert sensitivity_rows(effects)[0]["accuracy"] is None
    labels = measure.run(measure.open_session(model), rows)["y"].argmax(axis=1)
    scored = sensitivity(model, measure.Dataset(rows.inputs, labels), context, {"prune": (0.9,)})
    assert scored[0].accuracy == 1
    assert scored[1].accuracy == pytest.approx(scored[1].agreement)


def made_up(seed, layers=5, levels=5):
    rng = np.random.default_rng(seed)
    effects = []
    for layer in range(layers):
        effects.append(Effect(f"l{layer}", "", 0, 1000 * (layer + 1), 1, 0.0, 1))
        for level in range(levels):
            size, kl = int(rng.integers(10, 900)) * (layer + 1), float(rng.random())
            effects.append(Effect(f"l{layer}", "share", level + 2, size, 1, kl, 1))
    return effects


def total(effects, recipe):
    levels = {}
    for step in recipe.steps:
        for pair in step.settings["layers"].split(", "):
            name, _, level = pair.partition("=")
            levels[name] = float(level)
    chosen = [e for e in effects if e.level == levels.get(e.layer, 0)]
    assert len(chosen) == len({e.layer for e in effects})
    return sum(e.bytes for e in chosen), sum(e.kl for e in chosen)


@pytest.mark.parametrize("seed", range(6))
def test_the_budget_is_kept_and_little_is_lost_to_the_best_choice_there_is(seed):
    effects = made_up(seed)
    groups = {}
    for effect in effects:
        groups.setdefault(effect.layer, []).append(effect)
    smallest = sum(min(e.bytes for e in group) for group in groups.values())
    largest = sum(e.bytes for e in effects if not e.technique)
    for share in (0.05, 0.3, 0.6):
        budget = int(smallest + share * (largest - smallest))
        spent, loss = total(effects, allocate(effects, budget))
        assert spent <= budget
        best = min(
            sum(e.kl for e in choice)
            for choice in product(*groups.values())
            if sum(e.bytes for e in choice) <= budget
        )
        assert best <= loss <= best + 0.35, "one layer's step at the most"


def test_an_ample_budget_leaves_everything_as_it_is():
    assert allocate(made_up(0), 10**6).steps == ()


def test_a_budget_that_is_too_small_says_what_is_needed():
    effects = made_up(0)
    with pytest.raises(ConfigError, match=r"a budget of 5 bytes is too small: .* take [0-9]+"):
        allocate(effects, 5)


def test_models_whose_outputs_cannot_be_compared_cannot_be_allocated():
    with pytest.raises(ConfigError, match="no outputs to compare"):
        allocate([Effect("a", "", 0, 10, float("nan"), float("nan"), 1)], 100)


def test_where_there_are_no_classes_the_error_is_what_a_layer_costs(measured):
    model, rows, context, _ = measured
    levels = {"share": (2, 4, 16)}
    values = (Output("y", "values", axis=1),)
    effects = sensitivity(model, rows, context, levels, outputs=values)
    assert all(np.isnan(e.kl) and np.isnan(e.agreement) for e in effects)
    for layer in ("w1", "w2"):
        untouched, hard, middle, soft = (e for e in effects if e.layer == layer)
        assert hard.error > middle.error > soft.error > untouched.error == 0
    budget = sum(e.bytes for e in effects if e.level == 16)
    recipe = allocate(effects, budget)
    assert [step.settings["layers"] for step in recipe.steps] == ["w1=16, w2=16"]
