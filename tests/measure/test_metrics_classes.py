"""Metrics of classifiers and of scores that rank, against scikit-learn's own."""

import numpy as np
import pytest
from scipy.special import softmax
from sklearn import metrics as sk

from mlflow_compress.errors import ConfigError, DataError
from mlflow_compress.measure import MetricSpec, find_metric, metric_names
from tests.measure.scored import compared, from_source, scored


@pytest.fixture
def classes(rng):
    """Labels and logits of five classes that have to do with each other."""
    labels = rng.integers(0, 5, 150)
    return labels, rng.normal(size=(150, 5)) + 1.5 * np.eye(5)[labels]


def test_classes_against_scikit_learn(classes):
    labels, logits = classes
    best = logits.argmax(axis=1)
    assert scored("accuracy", logits, labels) == sk.accuracy_score(labels, best)
    assert scored("top-3", logits, labels) == sk.top_k_accuracy_score(labels, logits, k=3)
    expected = sk.balanced_accuracy_score(labels, best)
    assert scored("balanced_accuracy", logits, labels) == pytest.approx(expected)
    assert scored("f1", logits, labels) == pytest.approx(sk.f1_score(labels, best, average="macro"))


def test_areas_of_one_score_against_scikit_learn(rng):
    labels = rng.integers(0, 2, 80)
    logits = np.round(rng.normal(size=80) + labels, 1)  # with ties
    two = np.stack([-logits, logits], axis=1)
    for metric, theirs in (
        ("roc_auc", sk.roc_auc_score),
        ("average_precision", sk.average_precision_score),
    ):
        expected = pytest.approx(theirs(labels, logits))
        assert scored(metric, logits, labels) == expected
        assert scored(metric, logits[:, None], labels[:, None]) == expected
        assert scored(metric, two, labels) == expected
        assert scored(metric, softmax(two, axis=1), np.eye(2)[labels]) == expected


def test_areas_of_several_classes_against_scikit_learn(classes):
    labels, logits = classes
    p = softmax(logits, axis=1)
    expected = pytest.approx(sk.roc_auc_score(labels, p, multi_class="ovr"))
    assert scored("roc_auc", p, labels) == expected
    assert scored("roc_auc", logits, labels) == expected, "logits are not compared across rows"


def test_areas_of_several_labels_against_scikit_learn(rng):
    labels = rng.integers(0, 2, (90, 4))
    scores = 1 / (1 + np.exp(-rng.normal(size=(90, 4)) - labels))
    expected = sk.roc_auc_score(labels, scores)
    assert scored("roc_auc", scores, labels) == pytest.approx(expected)
    expected = sk.average_precision_score(labels, scores)
    assert scored("average_precision", scores, labels) == pytest.approx(expected)


@pytest.mark.parametrize("metric", ["accuracy", "top-1", "top-2", "f1", "balanced_accuracy"])
def test_scores_that_are_nan_are_no_class(metric, classes):
    labels, logits = np.zeros(150, int), classes[1]
    labels[75:] = 1
    right = np.eye(5)[labels]
    broken = np.where((labels == 0)[:, None], np.nan, right)
    assert scored(metric, right, labels) == 1
    assert scored(metric, broken, labels) <= 0.5, "argmax of NaN is 0, which is the label"
    found = compared(metric, broken, right, labels)
    assert found.drop >= 0.5
    assert logits.shape == broken.shape


def test_one_score_that_is_nan_is_no_class():
    assert scored("accuracy", np.array([np.nan, 0.2, 0.9]), [0, 0, 1]) == pytest.approx(2 / 3)


def test_infinity_in_one_column_of_a_row_fails_it_where_the_source_has_a_number():
    good = np.eye(3)[[0, 1, 2]]
    bad = good.copy()
    bad[0, 0] = np.inf
    assert scored("accuracy", bad, [0, 1, 2]) == 1, "without a source it is only large"
    assert compared("accuracy", bad, good, [0, 1, 2]).value == pytest.approx(2 / 3)
    masked = np.where(good == 0, -np.inf, good)
    assert compared("accuracy", masked, masked, [0, 1, 2]).value == 1, "as the source says it"


@pytest.mark.parametrize("metric", ["roc_auc", "average_precision"])
def test_nan_ranks_worst(metric):
    labels, source = [0, 0, 1, 1], np.array([0.1, 0.2, 0.8, 0.9])
    for row in range(4):
        variant = source.copy()
        variant[row] = np.nan
        assert compared(metric, variant, source, labels).value < 0.9


def test_a_variant_is_read_as_its_source_is():
    """Logits that happen to lie between 0 and 1 are logits still."""
    source, variant = np.array([3.0, -2.0, 0.4, 2.0]), np.array([0.9, 0.1, 0.2, 0.3])
    assert compared("accuracy", variant, source, [1, 0, 1, 1]).value == 0.75


def test_rows_of_one_class_have_no_area():
    with pytest.raises(DataError, match="'roc_auc' has no value on these rows: every class has al"):
        scored("roc_auc", [0.1, 0.2], [1, 1])


def test_the_interval_of_a_set_leaves_out_draws_without_a_value(rng):
    labels = np.zeros(12, int)
    labels[0] = 1  # a third of the draws have no row of this class
    source = np.linspace(1, 0, 12)
    found = compared("roc_auc", source[::-1], source, labels)
    assert (found.value, found.source) == (0, 1)
    assert found.drop_interval.low > 0
    assert np.isfinite([found.drop_interval.low, found.drop_interval.high]).all()


def test_the_source_s_classes_are_labels(classes):
    _, logits = classes
    variant = logits.copy()
    variant[:30] = -variant[:30]
    found = compared(from_source("accuracy"), variant, logits, count=150)
    assert (found.source, found.value) == (1, 0.8)
    assert found.dataset.rows == 150


def test_an_output_can_be_named(classes):
    labels, logits = classes
    outputs = {"aux": -logits, "logits": logits}
    by_name = MetricSpec("accuracy", output="logits")
    assert scored(by_name, outputs, labels) > scored("accuracy", outputs, labels)
    assert compared(by_name, outputs, outputs, labels).output == "logits"
    assert compared("accuracy", outputs, outputs, labels).output == "aux"
    with pytest.raises(
        DataError, match=r"'logit', which the model does not have \(did you mean 'l"
    ):
        scored(MetricSpec("accuracy", output="logit"), outputs, labels)


def test_labels_of_an_output_s_name_come_first(classes):
    labels, logits = classes
    assert scored("accuracy", logits, 4 - labels, y=labels) == scored("accuracy", logits, labels)
    assert scored("accuracy", logits, head=labels) == scored("accuracy", logits, labels)
    with pytest.raises(DataError, match=r"no labels for output 'y': .*there are: labels\.a, labe"):
        scored("accuracy", logits, a=labels, b=labels)


def test_direction_and_unit_can_be_overridden():
    spec = MetricSpec("accuracy", higher_is_better=False, unit="dB")
    assert (find_metric(spec).higher_is_better, find_metric(spec).unit) == (False, "dB")
    assert compared(spec, [0.9, 0.9], [0.9, 0.1], [1, 0]).unit == "dB"


@pytest.mark.parametrize(
    ("name", "hint"),
    [("roc_auk", "did you mean 'roc_auc'?"), ("recall@0", "did you mean 'recall@K'?")],
)
def test_a_misspelt_name_is_refused_with_what_was_meant(name, hint):
    with pytest.raises(ConfigError) as caught:
        find_metric(name)
    assert hint in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_names_are_those_of_the_entry_points():
    assert {"accuracy", "top-K", "recall@K", "mlflow:NAME", "coco_map"} <= set(metric_names())
    assert len(metric_names()) == 23


def test_what_is_said_of_a_metric_is_in_its_key():
    assert MetricSpec("mae").plain == "mae"
    told = MetricSpec("mae", output="y", labels="source").plain
    assert told == {"name": "mae", "output": "y", "labels": "source"}
