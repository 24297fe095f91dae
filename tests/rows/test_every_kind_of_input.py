"""Models with all sorts of inputs: run as a person would by hand, compressed, and judged."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnxruntime
import pytest

from mlflow_compress.measure import Dataset, dataset_of, fit_rows, open_session, run
from mlflow_compress.records import InputSpec, Recipe, Step
from mlflow_compress.rows import Ragged
from mlflow_compress.techniques import Context, apply_recipe, normalize
from tests.rows import made_models as made

RECIPES = {
    "prune": [Step("prune", {"sparsity": 0.3, "repair": True})],
    "entropy_share": [Step("entropy_share", {"bits": 5.0})],
    "quantize": [Step("quantize", {})],
    "percentile": [Step("quantize", {"method": "percentile"})],
    "repair": [Step("share", {"clusters": 16}), Step("repair", {})],
}


def normal(*shape: int) -> np.ndarray:
    return np.random.default_rng([7, *shape]).normal(size=shape).astype(np.float32)


SIZES = np.random.default_rng(5).integers(6, 9, (40, 2))
LENGTHS = np.random.default_rng(6).integers(3, 9, 40)
IDS = [np.random.default_rng([8, i]).integers(0, 20, n) for i, n in enumerate(LENGTHS)]
ONES = [np.ones(n, np.int64) for n in LENGTHS]


@dataclass(frozen=True)
class Case:
    """A model, data as a person gives them, and what one row's call is by hand."""

    model: Any
    data: dict[str, Any]
    call: Any
    specs: dict[str, InputSpec] = field(default_factory=dict)
    whole: tuple[str, ...] = ()
    """Outputs that have no axis of rows."""


CASES = {
    "one number": Case(
        made.with_threshold(),
        {"x": normal(40, 16), "scale": np.float32(2)},
        lambda d, i: {"x": d["x"][i : i + 1], "scale": np.array(2, np.float32)},
    ),
    "an array of one number": Case(
        made.with_threshold(),
        {"x": normal(40, 16), "scale": np.array([2], np.float32)},
        lambda d, i: {"x": d["x"][i : i + 1], "scale": np.array(2, np.float32)},
    ),
    "a number for each row": Case(
        made.with_threshold(),
        {"x": normal(40, 16), "scale": normal(40)},
        lambda d, i: {"x": d["x"][i : i + 1], "scale": np.array(d["scale"][i])},
    ),
    "a state for each row": Case(
        made.gru(),
        {"x": normal(1, 40, 6), "h0": normal(1, 40, 12)},
        lambda d, i: {name: array[:, i : i + 1] for name, array in d.items()},
    ),
    "a state for each row, the steps named": Case(
        made.gru(steps="t"),
        {"x": normal(5, 40, 6), "h0": normal(1, 40, 12)},
        lambda d, i: {name: array[:, i : i + 1] for name, array in d.items()},
    ),
    "a state that is zeros for every row": Case(
        made.gru(),
        {"x": normal(1, 40, 6)},
        lambda d, i: {"x": d["x"][:, i : i + 1], "h0": np.zeros((1, 1, 12), np.float32)},
        {"h0": InputSpec(axis=1, value=0)},
    ),
    "a state given once": Case(
        made.gru(),
        {"x": normal(1, 40, 6), "h0": normal(1, 1, 12)},
        lambda d, i: {"x": d["x"][:, i : i + 1], "h0": d["h0"]},
    ),
    "a batch of one": Case(
        made.images(batch=1, size=8),
        {"image": normal(40, 3, 8, 8)},
        lambda d, i: {"image": d["image"][i : i + 1]},
    ),
    "a batch of seven, which 40 rows do not fill": Case(
        made.images(batch=7),
        {"image": normal(40, 3, 8, 8)},
        lambda d, i: {"image": d["image"][[i] * 7]},
    ),
    "images of different sizes": Case(
        made.images(),
        {"image": [normal(3, *size) for size in SIZES]},
        lambda d, i: {"image": d["image"][i][None]},
    ),
    "sequences of different lengths": Case(
        made.tokens(),
        {"ids": IDS, "mask": ONES},
        lambda d, i: {"ids": d["ids"][i][None], "mask": d["mask"][i][None]},
    ),
    "a mask made of the lengths": Case(
        made.tokens(),
        {"ids": IDS},
        lambda d, i: {"ids": d["ids"][i][None], "mask": ONES[i][None]},
        {"ids": InputSpec(mask="mask")},
    ),
    "rows padded to a fixed length": Case(
        made.tokens(8),
        {"ids": IDS},
        lambda d, i: {
            "ids": np.pad(IDS[i], (0, 8 - len(IDS[i])), constant_values=19)[None],
            "mask": np.pad(ONES[i], (0, 8 - len(IDS[i])))[None],
        },
        {"ids": InputSpec(mask="mask", padding=19)},
    ),
    "one number for a call": Case(
        made.with_loss(),
        {"x": normal(40, 16)},
        lambda d, i: {"x": d["x"][i : i + 1]},
        whole=("loss",),
    ),
    "boxes after suppression": Case(
        made.detector(),
        {"x": normal(40, 16)},
        lambda d, i: {"x": d["x"][i : i + 1]},
        whole=("selected",),
    ),
    "signals without an axis of rows": Case(
        made.sound(),
        {"signal": [normal(n, 16) for n in LENGTHS]},
        lambda d, i: {"signal": d["signal"][i]},
        {"signal": InputSpec(axis="none")},
        whole=("frames",),
    ),
    "a model that takes one row, and says any": Case(
        made.one_at_a_time(),
        {"x": normal(40, 16)},
        lambda d, i: {"x": d["x"][i : i + 1]},
        whole=("y",),
    ),
}


def fitted(case: Case) -> tuple[Any, Any]:
    source = normalize(case.model)
    rows = dataset_of(case.data, "rows", case.specs)
    return source, fit_rows(source, rows, rows, specs=case.specs)


def by_hand(case: Case, output: str, row: int) -> np.ndarray:
    """Return a row's output of a call of that row alone."""
    session = onnxruntime.InferenceSession(case.model.SerializeToString())
    names = [value.name for value in session.get_outputs()]
    given = case.call(case.data, row)
    made_output = dict(zip(names, session.run(names, given), strict=True))[output]
    if output in case.whole:
        return made_output
    axis = 1 if output == "hn" else 0
    return np.moveaxis(made_output, axis, 0)[0]


@pytest.mark.parametrize("name", CASES)
def test_every_row_comes_out_as_in_a_call_of_its_own(name):
    case = CASES[name]
    _, rows = fitted(case)
    outputs = run(open_session(case.model), rows.evaluation)
    assert rows.evaluation.rows == 40
    for output, values in outputs.items():
        assert len(values) == 40
        for row in (0, 1, 17, 38, 39):
            np.testing.assert_allclose(values[row], by_hand(case, output, row), rtol=1e-4,
                                       atol=1e-5)  # fmt: skip


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("name", CASES)
def test_what_is_calibrated_on_them_stays_close(name, recipe):
    if "ids" in CASES[name].data and recipe == "prune":
        pytest.skip("its weights are too few to prune")
    source, rows = fitted(CASES[name])
    context = Context(calibration=rows.calibration.fed, seed=0)
    result = apply_recipe(source, Recipe(tuple(RECIPES[recipe])), context)
    expected = run(open_session(source), rows.evaluation)
    given = run(open_session(result.model), rows.evaluation)
    for output, values in expected.items():
        if values.dtype.kind != "f" or (output == "y" and "image" in CASES[name].data):
            continue  # class scores of noise are all but constant
        one, two = (np.concatenate([np.ravel(row) for row in a]) for a in (values, given[output]))
        assert ((one - two) ** 2).mean() < 0.35 * one.var(), output


def test_rows_of_different_shapes_come_back_as_ragged():
    _, rows = fitted(CASES["images of different sizes"])
    outputs = run(open_session(made.images()), rows.evaluation)
    assert isinstance(outputs["y"], np.ndarray)
    assert isinstance(outputs["map"], Ragged)
    assert outputs["map"].shapes[3] == (6, *SIZES[3])


def test_rows_of_one_shape_that_a_person_gives_as_a_list_are_an_array():
    data = dataset_of({"x": [normal(16)] * 3}, "rows")
    assert data.inputs["x"].shape == (3, 16)


def test_calls_of_few_rows_do_not_hide_a_coincidence():
    # images with one box each look like an output of [rows, 3] until an image has two
    session, x = open_session(made.detector()), normal(200, 16)
    counts = np.array([len(session.run(["selected"], {"x": x[i : i + 1]})[0]) for i in range(200)])
    order = [*np.flatnonzero(counts == 1)[:3], *np.flatnonzero(counts > 1)[:9]]
    outputs = run(session, Dataset({"x": x[order]}))
    assert [len(row) for row in outputs["selected"]] == counts[order].tolist()
