"""``shrink`` on a source that holds many networks, told by a stand-in for one."""

import numpy as np
import pytest
from onnx import helper

from mlflow_compress.errors import ConfigError, TechniqueError
from mlflow_compress.records import Recipe, Step
from mlflow_compress.techniques import Context, apply_recipe, normalize, validate_recipe
from tests.tiny import tiny_model

ROWS = {"x": np.repeat(np.arange(3, dtype=np.float32), 1000)[:, None].repeat(16, 1)}
"""Sorted, as a file may be by class."""


class StandIn:
    """Gives a marked copy of the source, and remembers what it was asked for."""

    def __init__(self, model):
        self.model, self.asked, self.rows = model, [], []

    def take(self, wanted, inputs):
        self.asked.append(dict(wanted))
        self.rows.append(inputs)
        made = type(self.model)()
        made.CopyFrom(self.model)
        helper.set_model_props(made, {"subnet": "8: 3x1"})
        return made


def shrink(**settings):
    return Recipe((Step("shrink", settings),))


def test_bounds_reach_the_supernet_with_rows_to_recalibrate_on():
    model = normalize(tiny_model())
    source = StandIn(model)
    context = Context(calibration=ROWS, subnets=source)
    made = apply_recipe(model, shrink(resolution=20, width=2), context)
    assert source.asked == [{"resolution": 20, "width": 2}]
    (rows,) = source.rows[0].values()
    assert len(rows) == 2048
    assert min(np.unique(rows[:, 0], return_counts=True)[1]) > 500
    assert made.notes[0] == "shrink: network 8: 3x1 of the supernet"


def test_equal_requests_have_equal_recipes():
    one = validate_recipe(shrink(ratio=0.3, kernel=3))
    assert one == validate_recipe(shrink(kernel=3))
    assert one.label == "shrink 3"
    assert validate_recipe(one) == one
    assert validate_recipe(shrink()).steps[0].settings == {"ratio": 0.5}


def test_one_network_has_no_subnets():
    model = normalize(tiny_model())
    with pytest.raises(TechniqueError, match=r"kernel is for supernets .* set ratio"):
        apply_recipe(model, shrink(kernel=3), Context(calibration=ROWS))


def test_a_network_is_taken_from_the_source_itself():
    model = normalize(tiny_model())
    steps = (Step("shrink", {"ratio": 0.5, "repair": False}), Step("shrink", {"depth": 1}))
    context = Context(calibration=ROWS, subnets=StandIn(model))
    with pytest.raises(TechniqueError, match="put shrink first"):
        apply_recipe(model, Recipe(steps), context)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"kernel": 0}, "shrink.kernel must be at least 1, got 0"),
        ({"kernel": 3, "subnet": "8: 3x1"}, "shrink.subnet says all: leave out shrink.kernel"),
        ({"kernel": 3.5}, "shrink.kernel must be a whole number, got 3.5"),
        ({"ratio": None}, "shrink.ratio must be a number between 0 and 1, got None"),
    ],
)
def test_impossible_settings_are_refused(settings, told):
    with pytest.raises(ConfigError, match=told):
        validate_recipe(shrink(**settings))
