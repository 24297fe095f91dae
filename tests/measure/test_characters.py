"""Character error rate of text, of CTC scores and of class numbers."""

import numpy as np
import pytest

from mlflow_compress.errors import DataError
from mlflow_compress.measure import Dataset, measure_accuracy, score
from mlflow_compress.measure.characters import edit_distance


def cer(output, labels):
    rows = Dataset({"x": np.zeros((len(labels), 1))}, np.asarray(labels))
    return score({"y": np.asarray(output)}, rows, "cer")


def scores(*rows, classes=4):
    """CTC scores whose best classes are these."""
    return np.eye(classes, dtype=np.float32)[np.array(rows)]


@pytest.mark.parametrize(
    ("given", "wanted", "edits"),
    [
        ("", "", 0), ("", "abc", 3), ("abc", "", 3), ("abc", "abc", 0),
        ("kitten", "sitting", 3), ("flaw", "lawn", 2), ("ab", "ba", 2), ("aaa", "a", 2),
        ("xabcdef", "abcdefx", 2),
    ],
)  # fmt: skip
def test_edit_distance(given, wanted, edits):
    assert edit_distance(given, wanted) == edits
    assert edit_distance(wanted, given) == edits


def test_text_against_text_counts_by_length():
    assert cer(["abcd", "xy"], ["abce", "x"]) == pytest.approx(2 / 5)
    assert cer([["abcd"], ["xy"]], ["abcd", "xy"]) == 0


def test_ctc_scores_are_collapsed_before_they_count():
    # 1 1 blank 1 2 reads "1 1 2"
    output = scores([1, 1, 0, 1, 2], [0, 0, 3, 3, 0])
    assert cer(output, [[1, 1, 2], [3, -1, -1]]) == 0
    assert cer(output, [[1, 2, -1], [3, 1, -1]]) == pytest.approx(2 / 4)


def test_text_labels_stand_for_all_classes_in_sorted_order():
    output = scores([1, 0, 2, 0], [3, 0, 0, 0])
    assert cer(output, ["ab", "c"]) == 0
    assert cer(output, ["ac", "b"]) == pytest.approx(2 / 3)


def test_classes_of_each_step_need_no_scores():
    assert cer(np.array([[1, 1, 0, 1, 2]]), [[1, 1, 2]]) == 0


def test_an_empty_answer_costs_every_character():
    assert cer(scores([0, 0]), [[1, 2]]) == 1


def test_a_drop_is_positive_when_more_characters_are_wrong():
    labels = np.array([[1, 2]] * 8)
    rows = Dataset({"x": np.zeros((8, 1))}, labels)
    good, bad = {"y": scores(*[[1, 2]] * 8)}, {"y": scores(*[[1, 2]] * 4 + [[1, 3]] * 4)}
    found = measure_accuracy(bad, good, rows, "cer")
    assert (found.value, found.source, found.drop) == (0.25, 0, 0.25)
    assert found.drop_interval.low < 0.25 < found.drop_interval.high


@pytest.mark.parametrize(
    ("output", "labels", "message"),
    [
        (scores([1, 2]), [[0, 1]], "class 0, which is CTC's blank"),
        (scores([1, 2]), [[1, 7]], r"class 7, the model has 4 \(0 to 3\)"),
        (scores([1, 2]), [1], "class numbers of"),
        (scores([1, 2]), ["ab"], "2 different characters, the model tells 4 classes"),
        (scores([1, 2]), [[-1, -1]], "no characters at all"),
        (scores([1, 2], [1, 2]), [[1, 2]], "1 labels for 2 rows"),
        (np.zeros((1, 3), np.float32), [[1, 2]], r"the model gives 'y' \[1, 3\]"),
        (np.array([["a", "b"]]), ["ab"], "one text per row"),
        (np.array(["a"]), [[1]], "one text per row"),
    ],
)
def test_what_does_not_fit_is_refused(output, labels, message):
    with pytest.raises(DataError, match=message):
        cer(output, labels)
