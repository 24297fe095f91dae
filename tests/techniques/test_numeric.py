import numpy as np
import pytest

from mlflow_compress.errors import TechniqueError
from mlflow_compress.records import Recipe, Step
from mlflow_compress.techniques import Context, apply_recipe
from mlflow_compress.techniques.numeric.algebra import inverse, refuse_unfit, root
from tests.techniques.nets import Net


def test_the_ridge_is_a_share_of_the_diagonal_and_grows_until_there_is_a_root(rng):
    rows = rng.normal(size=(50, 4))
    sound = rows.T @ rows
    noise = np.diag([1e-9, -1e-9, 3e-9, 1e-9])
    lower, added = root(np.stack([sound, noise, np.zeros((4, 4))]), 0.01)
    assert added[0] == pytest.approx(0.01 * np.trace(sound) / 4)
    for gram, one, ridge in zip((sound, noise, np.zeros((4, 4))), lower, added, strict=True):
        damped = gram + ridge * np.eye(4)
        np.testing.assert_allclose(one @ one.T, damped, atol=1e-12 * max(damped.max(), 1e-9))
        np.testing.assert_allclose(inverse(one) @ damped, np.eye(4), atol=1e-6)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_not_finite_is_refused_in_a_sentence(value):
    with pytest.raises(TechniqueError, match=r"not finite, or too large .*: leave such rows out"):
        root(np.full((3, 3), value), 0.01)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(("dtype", "fits", "too_large"), [("f4", 1e14, 1e16), ("f8", 1e149, 1e151)])
def test_what_is_too_large_to_be_squared_is_refused(dtype, fits, too_large):
    refuse_unfit(np.full(3, fits, dtype))
    with pytest.raises(TechniqueError, match="too large to be squared"):
        refuse_unfit(np.full(3, too_large, dtype))
    with pytest.raises(TechniqueError, match="too large to be squared"):
        root(np.eye(3) * 1e300, 0.01)


STEPS = {
    "shrink": {"ratio": 0.25},
    "prune": {"sparsity": 0.3, "repair": True},
    "entropy_share": {"bits": 5.0},
    "weight_only": {"bits": 4},
    "separable": {"rank": 2, "max_error": 1.0},
}


@pytest.fixture
def net(rng, build):
    net = Net(rng, build, (3, 8, 8))
    x = net.add("Relu", net.conv("x", "c1", 8, 3))
    x = net.add("Relu", net.conv(x, "c2", 8, 8))
    return net, net.model(net.head(x, 8))


@pytest.mark.parametrize("name", STEPS)
@pytest.mark.parametrize("scale", [0.0, 1e-12, 1e12])
def test_layers_whose_inputs_never_change_or_are_tiny_or_huge_are_fitted(
    net, evaluate, name, scale
):
    net, model = net
    for tensor in model.graph.initializer:
        if tensor.name == "c1":
            tensor.raw_data = (scale * np.frombuffer(tensor.raw_data, np.float32)).tobytes()
    step = Step(name, STEPS[name])
    made = apply_recipe(model, Recipe((step,), "compact"), Context(calibration=net.inputs()))
    assert np.isfinite(evaluate(made.model, net.inputs())).all()
    assert "of their variance" in made.notes[-1]


@pytest.mark.parametrize("name", STEPS)
def test_inputs_that_are_not_finite_are_refused_in_a_sentence(net, name):
    net, model = net
    rows = net.inputs()["x"]
    rows[3] = 3e38
    recipe = Recipe((Step(name, STEPS[name]),), "compact")
    with pytest.raises(TechniqueError, match="not finite"):
        apply_recipe(model, recipe, Context(calibration={"x": rows}))
