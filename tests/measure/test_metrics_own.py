"""Metrics of one's own, and MLflow's."""

import numpy as np
import pytest
from sklearn import metrics as sk

import mlflow_compress
from mlflow_compress.errors import ConfigError, DataError, DataNotFoundError
from mlflow_compress.measure import Dataset, MetricSpec, find_metric, measure_accuracy, score
from mlflow_compress.measure.metrics.own import own_metric
from tests.measure.scored import rows

WRITTEN = '''
import mlflow_compress
import numpy as np
from mlflow.models import EvaluationMetric, make_metric
from mlflow_compress.measure.metrics import Metric, by_row


def close(outputs, labels):
    return abs(outputs["y"][:, 0] - labels) < 1


def all_given(outputs, labels, inputs):
    assert sorted(outputs) == ["y", "z"]
    assert sorted(labels) == ["boxes", "labels"]
    assert sorted(inputs) == ["x"]
    return outputs["y"][:, 0] + labels["boxes"] + inputs["x"][:, 0]


@mlflow_compress.metric(name="lsd", higher_is_better=False, unit="dB", output="z")
def distance(outputs, labels, inputs):
    """One number for the set."""
    assert list(outputs) == ["z"]
    return float(np.sqrt(np.mean((outputs["z"] - labels["labels"]) ** 2)))


def _largest(predictions, targets):
    return float(np.abs(predictions - targets).max())


mine = make_metric(eval_fn=_largest, greater_is_better=False, name="largest")
plain = EvaluationMetric(_largest, "plain", False)
strange = make_metric(eval_fn=lambda predictions, prompt: 1.0, greater_is_better=True, name="s")
ready = Metric("ready", by_row(lambda rows: rows.output[:, 0]), unit="dB")
number = 3
nothing = lambda outputs, labels: None
text = lambda outputs, labels: "good"
texts = lambda outputs, labels: ["good"] * len(labels)
short = lambda outputs, labels: labels[:-1]
nan_rows = lambda outputs, labels: np.where(labels > 1, np.nan, 1.0)
nan_set = lambda outputs, labels: float("nan")
wrong_name = lambda outputs, labels: outputs["logits"] == labels
'''

LABELS = np.array([1.5, 1.0, 2.0])
OUTPUTS = {"y": np.array([[1.0], [5.0], [2.5]]), "z": np.array([1.0, 1.0, 3.0])}


@pytest.fixture(autouse=True)
def written(tmp_path, monkeypatch):
    (tmp_path / "written.py").write_text(WRITTEN)
    monkeypatch.chdir(tmp_path)


def value(name, **named):
    return score(OUTPUTS, rows(LABELS, **named), f"written.py:{name}")


def test_two_arguments_are_given_outputs_and_the_array_of_labels():
    assert value("close") == pytest.approx(2 / 3)
    found = measure_accuracy(OUTPUTS, OUTPUTS, rows(LABELS), "written.py:close")
    assert (found.unit, found.output) == ("share", "y"), "right or wrong is a share"


def test_three_arguments_are_given_all_by_name():
    inputs = {"x": np.full((3, 1), 10.0)}
    labels = {"boxes": np.array([100.0, 100.0, 100.0]), "inputs": inputs}
    assert value("all_given", **labels) == pytest.approx(110 + 8.5 / 3)


def test_one_number_for_the_set_is_drawn_again():
    found = measure_accuracy(
        {**OUTPUTS, "z": OUTPUTS["z"] + 1}, OUTPUTS, rows(LABELS), "written.py:distance"
    )
    assert (found.metric, found.unit, found.output, found.higher_is_better) == (
        "lsd", "dB", "z", False,
    )  # fmt: skip
    assert found.source == pytest.approx(np.sqrt(np.mean((OUTPUTS["z"] - LABELS) ** 2)))
    assert found.drop > 0
    assert found.drop_interval.low < found.drop < found.drop_interval.high


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nothing", "returned nothing, expected one score per row, or one number"),
        ("text", "returned the text 'good', expected one score per row"),
        ("texts", "returned a list, expected one score per row"),
        ("short", r"returned shape \[2\], expected one score for each of the 3 rows, or one"),
        ("nan_rows", "returned NaN for 2 rows, first row 0"),
        ("nan_set", "returned NaN"),
        (
            "wrong_name",
            r"failed with KeyError: 'logits' \(written.py, line \d+\); it was given the",
        ),
    ],
)
def test_what_is_no_score_is_one_clear_line(name, message):
    with pytest.raises(DataError, match=message) as caught:
        value(name)
    assert "\n" not in str(caught.value)
    assert f"written.py:{name}" in str(caught.value)


def test_two_arguments_need_the_array_of_labels():
    with pytest.raises(DataError, match=r"no array 'labels', but labels\.boxes: give it a third"):
        score(OUTPUTS, rows(boxes=LABELS), "written.py:close")


@pytest.mark.parametrize(
    ("function", "worst"),
    [
        (lambda outputs, labels: outputs["y"].argmax(axis=1) == labels, 2 / 3),
        (lambda outputs, labels: outputs["y"][:, 0], -np.inf),
        (lambda outputs, labels: 0.5, -np.inf),
        (mlflow_compress.metric(unit="share")(lambda outputs, labels: 0.5), 0),
        (mlflow_compress.metric(higher_is_better=False)(lambda outputs, labels: 0.5), np.inf),
    ],
    ids=["right or wrong", "per row", "set", "share of the set", "error"],
)
def test_a_row_of_nan_fails_whatever_the_function_makes_of_it(function, worst, monkeypatch):
    found = own_metric("own", function)
    monkeypatch.setattr("mlflow_compress.measure.accuracy.find_metric", lambda spec: found)
    source = np.array([[1.0, 0.0], [1.0, 0.0], [1.0, 0.0]])
    variant = source.copy()
    variant[0] = np.nan  # of which argmax is 0, the label
    made = measure_accuracy({"y": variant}, {"y": source}, rows([0, 0, 0]), "own")
    assert made.value == pytest.approx(worst)
    assert made.drop > 0


def test_a_ready_metric_is_taken_as_it_is():
    assert find_metric("written.py:ready").unit == "dB"


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("number", ConfigError, "is a int, expected a function"),
        ("missing", DataNotFoundError, "has no function 'missing'"),
    ],
)
def test_what_is_no_function_is_refused(name, error, message):
    with pytest.raises(error, match=message):
        find_metric(f"written.py:{name}")


@pytest.fixture
def one_score(rng):
    labels = rng.normal(size=40)
    return labels, labels + 0.3 * rng.normal(size=40)


def test_mlflow_s_own_metrics(one_score, rng):
    labels, given = one_score
    for name, theirs in (
        ("mae", sk.mean_absolute_error), ("rmse", sk.root_mean_squared_error),
        ("r2_score", sk.r2_score), ("max_error", sk.max_error),
    ):  # fmt: skip
        found = measure_accuracy({"y": given}, {"y": labels}, rows(labels), f"mlflow:{name}")
        assert found.value == pytest.approx(theirs(labels, given))
        assert found.higher_is_better == (name == "r2_score")
        assert found.drop > 0
        assert found.unit == ""
    logits, classes = rng.normal(size=(40, 2)), rng.integers(0, 2, 40)
    expected = sk.f1_score(classes, logits.argmax(axis=1))
    assert score({"y": logits}, rows(classes), "mlflow:f1_score") == pytest.approx(expected)


@pytest.mark.parametrize("name", ["mine", "plain"])
def test_metrics_made_with_mlflow(name, one_score):
    labels, given = one_score
    spec = MetricSpec(f"written.py:{name}", output="y")
    outputs = {"z": labels, "y": given}
    found = measure_accuracy(outputs, {"z": labels, "y": labels}, rows(labels), spec)
    assert found.value == pytest.approx(np.abs(given - labels).max())
    assert (found.higher_is_better, found.output) == (False, "y")


def test_nan_in_a_row_is_the_worst_of_mlflow_s_metrics(one_score):
    labels, given = one_score
    broken = given.copy()
    broken[0] = np.nan
    found = measure_accuracy({"y": broken}, {"y": given}, rows(labels), "mlflow:mae")
    assert found.value == np.inf


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("mlflow:r2_scor", r"did you mean 'mlflow:r2_score'\?\) that needs no arguments; it has"),
        ("mlflow:recall_at_k", "mlflow.metrics has no 'recall_at_k'"),
        ("written.py:strange", "its function takes 'prompt', which is not given here"),
    ],
)
def test_metrics_of_mlflow_s_that_cannot_be_used_are_refused(name, message):
    with pytest.raises(ConfigError, match=message):
        find_metric(name)


def test_what_mlflow_s_metric_cannot_score_is_one_line(one_score):
    labels, given = one_score
    with pytest.raises(DataError, match="'mlflow:f1_score' failed with ValueError: ") as caught:
        score({"y": given}, rows((labels > 0).astype(int)), "mlflow:f1_score")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("function", "read"),
    [
        (lambda outputs, labels: outputs["b"][:, 0] * 0 + 1.0, "b"),
        (lambda outputs, labels: outputs.get("a")[:, 0] * 0 + 1.0, "a"),
        (lambda outputs, labels: sum(o[:, 0] for o in outputs.values()), "a, b"),
        (lambda outputs, labels, inputs: float(outputs["b"].mean()), "b"),
    ],
)
def test_what_a_function_does_not_look_at_labels_do_not_judge(function, read, monkeypatch):
    monkeypatch.setattr(
        "mlflow_compress.measure.metrics.registry.load_object", lambda spec: function
    )
    data = Dataset({"x": np.zeros((6, 1))}, np.arange(6))
    outputs = {name: np.ones((6, 2)) for name in "ab"}
    assert measure_accuracy(outputs, outputs, data, "mine:metric").output == read
