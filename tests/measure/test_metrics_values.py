"""Metrics of values, signals and embeddings."""

import numpy as np
import pytest
from scipy import stats
from sklearn import metrics as sk

from mlflow_compress.errors import DataError
from tests.measure.scored import compared, from_source, scored


@pytest.fixture
def values(rng):
    """Labels and values of three columns that have to do with each other."""
    labels = rng.normal(size=(60, 3)) * [1, 10, 0.1]
    return labels, labels + rng.normal(size=(60, 3)) * [0.3, 3, 0.05]


def test_values_against_scikit_learn_and_scipy(values):
    labels, given = values
    assert scored("mae", given, labels) == pytest.approx(sk.mean_absolute_error(labels, given))
    expected = sk.mean_squared_error(labels, given) ** 0.5
    assert scored("rmse", given, labels) == pytest.approx(expected)
    assert scored("r2", given, labels) == pytest.approx(sk.r2_score(labels, given))
    for name, theirs in (("pearson", stats.pearsonr), ("spearman", stats.spearmanr)):
        expected = np.mean([theirs(labels[:, i], given[:, i]).statistic for i in range(3)])
        assert scored(name, given, labels) == pytest.approx(expected)
        assert scored(name, given[:, 0], labels[:, 0]) == pytest.approx(
            theirs(labels[:, 0], given[:, 0]).statistic
        )


def test_ties_share_a_rank():
    labels, given = [1, 2, 2, 3, 5], [1.0, 1.0, 2.0, 2.0, 3.0]
    expected = stats.spearmanr(labels, given).statistic
    assert scored("spearman", given, labels) == pytest.approx(expected)


@pytest.mark.parametrize(("metric", "worst"), [("pearson", 0), ("spearman", 0), ("r2", -0.5)])
def test_a_constant_output_is_related_to_nothing(metric, worst):
    assert scored(metric, np.full(4, 3.0), [0.0, 1.0, 2.0, 5.0]) == pytest.approx(worst, abs=0.3)


@pytest.mark.parametrize("metric", ["pearson", "spearman", "r2"])
def test_constant_labels_say_nothing(metric):
    with pytest.raises(DataError, match="no value on these rows: the labels are the same in every"):
        scored(metric, [1.0, 2.0], [3.0, 3.0])


@pytest.mark.parametrize(
    ("metric", "worst"),
    [
        ("mae", np.inf),
        ("rmse", np.inf),
        ("r2", -np.inf),
        ("pearson", -1),
        ("spearman", -1),
    ],
)
def test_one_row_of_nan_makes_a_set_of_values_worst(metric, worst, values):
    labels, given = values
    broken = given.copy()
    broken[3, 1] = np.nan
    found = compared(metric, broken, given, labels)
    assert found.value == worst
    assert found.drop > 0.3
    assert found.drop_interval.high >= found.drop


def test_one_row_of_nan_is_the_worst_cosine():
    good = np.array([[1.0, 0.0], [0.0, 1.0]])
    bad = np.array([[np.nan, 0.0], [0.0, 1.0]])
    assert compared("cosine", bad, good, good).value == 0, "-1 and 1"


def test_the_source_s_values_are_labels(values):
    _, given = values
    found = compared(from_source("mae"), given + 0.25, given, count=60)
    assert (found.source, found.unit, found.higher_is_better) == (0, "", False)
    assert found.drop == pytest.approx(0.25)


def test_the_ratio_of_signal_to_distortion():
    """By Le Roux et al.'s definition, with a target and noise at right angles."""
    wanted = np.array([[1.0, 0.0, 1.0, 0.0]])
    noise = np.array([[0.0, 0.1, 0.0, -0.1]])
    expected = 10 * np.log10(2 / 0.02)
    assert scored("si_sdr", wanted + noise, wanted) == pytest.approx(expected)
    assert scored("si_sdr", 7 * (wanted + noise), wanted) == pytest.approx(expected), "any scale"


def test_signals_are_bounded_and_silence_does_not_count():
    wanted = np.array([[1.0, 0.0], [0.0, 0.0], [1.0, 0.0]])
    given = np.array([[1.0, 0.0], [0.5, 0.5], [np.nan, 0.0]])
    found = compared("si_sdr", given, wanted, wanted)
    assert (found.unit, found.source) == ("dB", 100)
    assert found.value == 0, "100 dB of the first row, -100 of the last"
    with pytest.raises(DataError, match="every label is silent"):
        scored("si_sdr", given[1:2], wanted[1:2])


def test_channels_of_a_signal_are_averaged(rng):
    wanted = rng.normal(size=(2, 3, 50))
    given = wanted + rng.normal(size=(2, 3, 50))
    each = [scored("si_sdr", given[:, i], wanted[:, i]) for i in range(3)]
    assert scored("si_sdr", given, wanted) == pytest.approx(np.mean(each))


def test_recall_among_the_rows():
    around = np.deg2rad([0, 5, 90, 95, 12, 200])
    embeddings = np.stack([np.cos(around), np.sin(around)], axis=1)
    groups = np.array(["a", "a", "b", "b", "b", "alone"])
    # the fifth is nearest to the a's; its group comes third
    assert scored("recall@1", embeddings, groups) == 0.8
    assert scored("recall@3", embeddings, groups) == 1
    broken = embeddings.copy()
    broken[0] = np.nan  # neither finds nor is found
    assert compared("recall@1", broken, embeddings, groups).value == pytest.approx(0.4)


@pytest.mark.parametrize(
    ("embeddings", "groups", "message"),
    [
        (np.eye(3), ["a", "b", "c"], "every row has its own"),
        (np.eye(3), [[1, 2, 3]] * 3, "number or name of its group"),
        (np.ones((3, 2, 2)), [0, 0, 1], "expected one embedding per row"),
        (np.eye(2), [0, 0], "2 rows are too few to find the 5 nearest"),
    ],
)
def test_what_has_no_neighbours_is_refused(embeddings, groups, message):
    with pytest.raises(DataError, match=message):
        scored("recall@5", embeddings, groups)


def test_the_nearest_neighbour_stays_the_same(rng):
    source = rng.normal(size=(40, 8))
    assert compared(from_source("nearest_neighbour"), source, source, count=40).value == 1
    noisy = source + rng.normal(size=(40, 8))
    unit = source / np.linalg.norm(source, axis=1, keepdims=True)
    near, ours = unit @ unit.T, noisy / np.linalg.norm(noisy, axis=1, keepdims=True)
    expected = []
    for row in range(40):
        a, b = near[row].copy(), (ours @ ours.T)[row].copy()
        a[row] = b[row] = -2
        expected.append(a.argmax() == b.argmax())
    found = compared(from_source("nearest_neighbour"), noisy, source, count=40)
    assert found.value == np.mean(expected)
    assert found.drop_interval.high > found.drop
    noisy[:] = np.nan
    assert compared(from_source("nearest_neighbour"), noisy, source, count=40).value == 0


def test_text_is_no_value():
    with pytest.raises(DataError, match="do not match the output's shape"):
        scored("mae", [1.0, 2.0], ["a", "b"])
