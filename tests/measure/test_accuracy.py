import numpy as np
import pytest

from mlflow_compress.errors import ConfigError, DataError
from mlflow_compress.measure import Dataset, find_metric, measure_accuracy, score
from mlflow_compress.measure.intervals import paired_proportions_interval
from mlflow_compress.records import Output

LABELS = np.array([0, 1, 2, 1])
LOGITS = np.array([[3, 1, 0], [0, 2, 1], [2, 1, 0], [0.5, 1, 0.2]], np.float32)  # 3 of 4 right


def data(labels, rows=None) -> Dataset:
    labels = np.asarray(labels)
    return Dataset({"x": np.zeros((rows or len(labels), 1), np.float32)}, labels)


def one_hot(labels, classes):
    return np.eye(classes)[labels]


@pytest.mark.parametrize(
    "labels",
    [
        LABELS,
        LABELS.astype(np.float64),
        LABELS[:, None],
        one_hot(LABELS, 3),
        np.array(list("abcb")),
    ],
    ids=["whole numbers", "floats", "column", "one-hot", "text"],
)
def test_accuracy_takes_labels_of_every_form(labels):
    assert score({"y": LOGITS}, data(labels)) == 0.75


def test_top_k_and_f1_against_scikit_learn():
    from sklearn.metrics import f1_score, top_k_accuracy_score

    rng = np.random.default_rng(0)
    labels, logits = rng.integers(0, 5, 200), rng.normal(size=(200, 5))
    assert score({"y": logits}, data(labels), "top-2") == top_k_accuracy_score(labels, logits, k=2)
    expected = f1_score(labels, logits.argmax(1), average="macro")
    assert score({"y": logits}, data(labels), "f1") == pytest.approx(expected)


def test_regression_metrics():
    outputs, labels = {"y": np.array([[1.0], [2.0], [4.0]])}, np.array([1.0, 3.0, 1.0])
    assert score(outputs, data(labels), "mae") == pytest.approx(4 / 3)
    assert score(outputs, data(labels), "rmse") == pytest.approx(np.sqrt(10 / 3))
    vectors = {"y": np.array([[1.0, 0.0], [1.0, 1.0]])}
    assert score(vectors, data([[2.0, 0.0], [1.0, -1.0]]), "cosine") == pytest.approx(0.5)


@pytest.mark.parametrize("output", [[0.2, 0.7, 0.4], [[-1.0], [0.3], [-0.1]]])
def test_one_column_is_a_probability_or_a_logit(output):
    assert score({"y": np.array(output)}, data([0, 1, 1])) == pytest.approx(2 / 3)


def test_a_classifier_that_returns_text_is_scored_on_text():
    outputs = {"label": np.array(["cat", "dog"], object), "p": np.ones((2, 3), np.float32)}
    assert score(outputs, data(np.array(["cat", "cow"]))) == 0.5


def test_a_metric_of_ones_own(tmp_path, monkeypatch):
    (tmp_path / "my_metric.py").write_text(
        "def close(outputs, labels): return abs(outputs['y'][:, 0] - labels) < 1\n"
        "def bad(outputs, labels): return labels[:1]\n"
    )
    monkeypatch.chdir(tmp_path)
    outputs = {"y": np.array([[1.0], [5.0]])}
    assert score(outputs, data([1.5, 1.0]), "my_metric:close") == 0.5
    with pytest.raises(DataError, match=r"returned shape \[1\], expected one score for each of"):
        score(outputs, data([1.5, 1.0]), "my_metric:bad")


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    ("labels", "metric", "message"),
    [
        ([0, 1, 3, 1], "accuracy", r"labels go from 0 to 3, the model has 3 classes \(0 to 2\)"),
        ([0.5, 1, 2, 1], "accuracy", "not whole numbers; use a metric such as rmse or mae"),
        ([1e30, 1, 2, 1], "accuracy", "not whole numbers"),
        (np.array([2**63 + 1, 1, 2, 1], np.uint64), "accuracy", "not whole numbers"),
        (list("abab"), "accuracy", "2 different text labels, the model tells 3 classes apart"),
        ([0, 1, 2, 1], "rmse", r"labels of shape \[4\] .* do not match the output's shape \[4, 3"),
        ([0, 1, 2, 1], "top-3", "more than 3 classes"),
        (np.zeros((4, 3, 0)), "accuracy", r"labels of shape \[4, 3, 0\] name no classes"),
    ],
)
def test_labels_that_do_not_fit_are_refused(labels, metric, message):
    with pytest.raises(DataError, match=message):
        score({"y": LOGITS}, data(labels), metric)


def test_no_labels_and_unknown_metrics_are_refused():
    with pytest.raises(DataError, match="have no labels, so 'accuracy' cannot be measured"):
        score({"y": LOGITS}, Dataset({"x": np.zeros((4, 1))}))
    with pytest.raises(ConfigError, match=r"'acuracy' does not exist \(did you mean 'accuracy'\?"):
        find_metric("acuracy")


def test_the_drop_is_paired_and_positive_when_the_variant_is_worse():
    variant = LOGITS.copy()
    variant[1] = [5, 0, 0]
    made = measure_accuracy({"y": variant}, {"y": LOGITS}, data(LABELS))
    assert (made.value, made.source, made.drop) == (0.5, 0.75, 0.25)
    assert made.drop_interval.low < 0.25 < made.drop_interval.high
    assert made.dataset.rows == 4
    worse = measure_accuracy(
        {"y": np.array([[3.0], [1.0]])}, {"y": np.array([[1.0], [1.0]])}, data([1.0, 1.0]), "mae"
    )
    assert worse.drop == 1.0
    assert worse.drop_interval.high >= 1.0


@pytest.mark.parametrize(("metric", "true"), [("accuracy", 0.9), ("mae", 1.0)])
def test_the_metric_s_own_interval_holds_the_true_value(metric, true):
    """In about 95 of 100 samples of 200 rows; the number itself is never the true one."""
    held = 0
    for seed in range(100):
        rng = np.random.default_rng(seed)
        if metric == "accuracy":
            labels = rng.integers(0, 3, 200)
            told = np.where(rng.random(200) < true, labels, (labels + 1) % 3)
            outputs = {"y": one_hot(told, 3)}
        else:
            labels, outputs = np.zeros(200), {"y": rng.exponential(true, (200, 1))}
        made = measure_accuracy(outputs, outputs, data(labels), metric)
        assert made.interval.low < made.value < made.interval.high
        held += made.interval.low <= true <= made.interval.high
    assert 90 <= held < 100


def test_equal_models_still_have_an_interval():
    labels = np.arange(300) % 3
    outputs = {"y": one_hot(labels, 3)}
    made = measure_accuracy(outputs, outputs, data(labels))
    assert made.drop == 0
    assert -0.02 < made.drop_interval.low < -0.005
    assert 0.005 < made.drop_interval.high < 0.02


def test_the_score_interval_ends_where_the_score_test_rejects():
    """Recomputes the statistic with a grid search over the nuisance probability."""
    lost, won, rows = 12, 2, 50

    def statistic(delta):
        q = np.linspace(1e-7, (1 - delta) / 2 - 1e-7, 400001)
        likelihood = (
            lost * np.log(q + delta)
            + won * np.log(q)
            + (rows - lost - won) * np.log(1 - 2 * q - delta)
        )
        best = q[likelihood.argmax()]
        return (lost - won - rows * delta) / np.sqrt(rows * (2 * best + delta - delta**2))

    made = paired_proportions_interval(lost, won, rows)
    assert statistic(made.low) == pytest.approx(1.95996, abs=1e-3)
    assert statistic(made.high) == pytest.approx(-1.95996, abs=1e-3)


@pytest.mark.parametrize(("p_lost", "p_won"), [(0.02, 0.01), (0.005, 0.0)])
def test_the_score_interval_covers_the_truth_as_often_as_it_says(p_lost, p_won):
    rng, rows, hits = np.random.default_rng(5), 200, 0
    for _ in range(400):
        lost, won, _ = rng.multinomial(rows, [p_lost, p_won, 1 - p_lost - p_won])
        made = paired_proportions_interval(int(lost), int(won), rows)
        hits += made.low <= p_lost - p_won <= made.high
    assert hits / 400 > 0.92


def test_the_score_interval_is_symmetric():
    one, other = paired_proportions_interval(5, 2, 40), paired_proportions_interval(2, 5, 40)
    assert one.low == pytest.approx(-other.high)
    assert one.high == pytest.approx(-other.low)


def test_a_smoothed_interval_holds_the_drop_that_was_seen():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 1000)
    source = 5 * np.eye(3)[labels]
    source[:20] = np.eye(3)[labels[:20]] * 0.01  # a tie, in which it is always right
    wrong = slice(20, 80)
    source[wrong] = np.roll(source[wrong], 1, axis=1)
    variant = source.copy()
    variant[:20] = np.roll(source[:20], 1, axis=1)
    found = measure_accuracy(
        {"y": variant}, {"y": source}, data(labels), kinds=[Output("y", "classes", "logits", 1)]
    )
    assert found.drop == pytest.approx(0.02)
    plain = measure_accuracy({"y": variant}, {"y": source}, data(labels))
    assert found.drop_interval.high < plain.drop_interval.high, "it was smoothed"
    assert found.drop_interval.low <= found.drop <= found.drop_interval.high
