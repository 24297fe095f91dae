"""Metrics of what is seen, heard and read: maps, boxes, texts."""

import contextlib
import io

import numpy as np
import pytest
from scipy.special import log_softmax
from sklearn.metrics import f1_score, jaccard_score

from mlflow_compress.errors import DataError, MissingDependencyError
from tests.measure.scored import compared, from_source, scored


@pytest.fixture
def maps(rng):
    """Labels and scores of three classes per position."""
    labels = rng.integers(0, 3, (4, 8, 8))
    scores = rng.normal(size=(4, 3, 8, 8)) + 1.5 * np.moveaxis(np.eye(3)[labels], -1, 1)
    return labels, scores


def test_class_maps_against_scikit_learn(maps):
    labels, scores = maps
    best = scores.argmax(axis=1)
    flat = labels.reshape(-1), best.reshape(-1)
    iou, dice = jaccard_score(*flat, average="macro"), f1_score(*flat, average="macro")
    for output in (scores, best, best[:, None]):
        assert scored("iou", output, labels) == pytest.approx(iou)
        assert scored("dice", output, labels) == pytest.approx(dice)


@pytest.mark.parametrize("shape", [(4, 8, 8), (4, 1, 8, 8)])
def test_masks_count_the_foreground(rng, shape):
    labels = rng.integers(0, 2, (4, 8, 8))
    p = np.clip(labels + rng.normal(size=(4, 8, 8)) * 0.5, 0, 1)
    expected = jaccard_score(labels.reshape(-1), (p > 0.5).reshape(-1))
    assert scored("iou", p.reshape(shape), labels) == pytest.approx(expected)
    logits = (p - 0.5).reshape(shape) * 9
    assert scored("iou", logits, labels) == pytest.approx(expected)


def test_positions_without_a_label_do_not_count(maps):
    labels, scores = maps
    right = np.moveaxis(np.eye(3)[labels], -1, 1)
    right[0] = np.roll(right[0], 1, axis=0)
    labels[0] = -1
    assert scored("iou", right, labels) == 1
    assert scored("iou", scores, labels) < 1


def test_a_map_of_nan_has_no_class(maps):
    labels, _ = maps
    right = np.moveaxis(np.eye(3)[labels], -1, 1)
    broken = right.copy()
    broken[0, 0, 0, 0] = np.nan
    found = compared("dice", broken, right, labels)
    assert found.source == 1
    assert found.value < 0.9, "the whole image counts as missed"


def test_the_source_s_map_is_the_label(maps):
    _, scores = maps
    assert compared(from_source("iou"), scores, scores, count=4).value == 1


@pytest.mark.filterwarnings("error")
def test_maps_that_do_not_fit_are_refused(maps):
    labels, scores = maps
    with pytest.raises(DataError, match=r"labels of shape \[4, 8, 7\] do not match the map of out"):
        scored("iou", scores, labels[..., :7])
    for odd in (0.5, 1e30):
        with pytest.raises(DataError, match="a class number per position is needed"):
            scored("iou", scores, np.where(labels == 1, odd, labels))
    with pytest.raises(DataError, match=r"go up to 5, the map of output 'y' has 3 classes"):
        scored("iou", scores, labels + 3)


def boxes(rng, images=12):
    """Labels with up to three boxes per image, and boxes near them that a detector finds."""
    labels = np.zeros((images, 3, 5))
    labels[..., :2] = rng.uniform(0, 50, (images, 3, 2))
    labels[..., 2:4] = labels[..., :2] + rng.uniform(8, 30, (images, 3, 2))
    labels[..., 4] = rng.integers(0, 2, (images, 3))
    labels[np.arange(images) % 3 == 0, 1:, 4] = -1
    labels[labels[..., 4] < 0, :4] = 0
    found = np.zeros((images, 4, 6), np.float32)
    found[:, :3, :4] = labels[..., :4] + rng.normal(size=(images, 3, 4))
    found[:, :3, 4] = rng.uniform(0.3, 1, (images, 3))
    found[:, :3, 5] = labels[..., 4]
    found[:, 3] = [5, 5, 20, 20, 0.4, 1]  # found everywhere, and nowhere there
    return labels, found


def coco_s_own(labels, found):
    """What pycocotools itself makes of it, with all of its settings."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    def made(rows, scored):
        annotations = []
        for image, some in enumerate(rows):
            for x1, y1, x2, y2, *rest in some.tolist():
                number = int(rest[-1])
                if number >= 0:
                    one = {"id": len(annotations) + 1, "image_id": image, "category_id": number}
                    one |= {"bbox": [x1, y1, x2 - x1, y2 - y1], "iscrowd": 0}
                    one |= {"area": (x2 - x1) * (y2 - y1), "score": rest[0] if scored else 1}
                    annotations.append(one)
        document = COCO()
        images = [{"id": image} for image in range(len(rows))]
        document.dataset = {"images": images, "annotations": annotations}
        document.dataset["categories"] = [{"id": 0}, {"id": 1}]
        document.createIndex()
        return document

    with contextlib.redirect_stdout(io.StringIO()):
        evaluation = COCOeval(made(labels, False), made(found, True), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation.stats[0]


def test_boxes_against_coco_s_own(rng, capsys):
    labels, found = boxes(rng)
    expected = pytest.approx(coco_s_own(labels, found))
    assert 0.3 < expected.expected < 0.95
    assert scored("coco_map", found, labels) == expected
    named = {"boxes": labels[..., :4], "classes": labels[..., 4].astype(int)}
    assert scored("coco_map", found, **named) == expected
    apart = {"b": found[..., :4], "s": found[..., 4], "c": found[..., 5].astype(np.int64)}
    assert scored("coco_map", apart, labels) == expected
    assert capsys.readouterr().out == ""


def test_boxes_with_scores_per_class():
    outputs = {
        "boxes": np.array([[[0, 0, 10, 10], [20, 20, 30, 30]]], np.float32),
        "scores": np.array([[[0.1, 0.9], [0.8, 0.1]]], np.float32),
    }
    labels = np.array([[[0, 0, 10, 10, 1], [20, 20, 30, 30, 0]]])
    assert scored("coco_map", outputs, labels) == pytest.approx(1)


def test_drawing_images_is_evaluating_them_again(rng):
    """Matches are kept per image; a draw with an image twice is a set with it twice."""
    from mlflow_compress.measure import find_metric
    from mlflow_compress.measure.metrics import Rows

    labels, found = boxes(rng)
    given = Rows({"y": found}, {"labels": labels}, {}, np.zeros(12, bool), 0.0)
    scores = find_metric("coco_map").score(given)
    drawn = np.array([0, 0, 3, 3, 5, 6, 7, 8, 9, 10, 11, 1])
    assert scores.of(drawn) == pytest.approx(coco_s_own(labels[drawn], found[drawn]))
    assert scores.value == pytest.approx(coco_s_own(labels, found)), "the first draw left no trace"


def test_boxes_of_a_variant(rng):
    labels, found = boxes(rng)
    broken = found.copy()
    broken[:6, 0, 0] = np.nan
    result = compared("coco_map", broken, found, labels)
    assert result.value < 0.7 * result.source, "images with NaN have no boxes at all"
    assert result.drop_interval.low > 0
    same = compared(from_source("coco_map"), found, found, count=12)
    assert same.value == pytest.approx(1)


@pytest.mark.parametrize(
    ("output", "labels", "message"),
    [
        (np.zeros((2, 3, 5), np.float32), np.zeros((2, 3, 5)), r"the model gives 'y' \[2, 3, 5\]"),
        (np.zeros((2, 3, 6), np.float32), np.zeros((2, 3)), r"labels\.boxes of \[rows, boxes, 4\]"),
        (np.zeros((2, 3, 6), np.float32), np.full((2, 3, 5), -1), "the labels have no boxes"),
        (np.zeros((2, 3, 6), np.float32), np.full((2, 3, 5), 1.5), "other numbers than whole ones"),
    ],
)
def test_what_are_no_boxes_is_refused(output, labels, message):
    with pytest.raises(DataError, match=message):
        scored("coco_map", output, labels)


def test_words_against_jiwer():
    from jiwer import wer

    labels = ["the cat sat", "on the mat", "today"]
    given = ["the cat sat down", "on mat", "to day"]
    assert scored("wer", np.array(given), labels) == pytest.approx(wer(labels, given))
    assert scored("wer", np.array(["a b"]), np.array(["a b"])) == 0
    with pytest.raises(DataError, match="no words at all"):
        scored("wer", np.array(["a"]), np.array([""]))


def test_words_of_ctc_scores():
    letters = " abc"  # sorted, after the blank
    steps = [[letters.index(c) + 1 for c in text] for text in ("ab c", "c ba")]
    output = np.eye(5, dtype=np.float32)[np.array(steps)]
    assert scored("wer", output, ["ab c", "c ab"]) == 0.25
    with pytest.raises(DataError, match="words need labels of text"):
        scored("wer", output, [[1, 2], [2, 3]])


@pytest.mark.parametrize(
    ("metric", "module", "extra"), [("wer", "jiwer", "text"), ("coco_map", "pycocotools", "boxes")]
)
def test_what_is_not_installed_is_named(metric, module, extra, monkeypatch, rng):
    import sys

    for name in [name for name in sys.modules if name.partition(".")[0] == module]:
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setitem(sys.modules, module, None)
    labels, found = (["a"], np.array(["a"])) if metric == "wer" else boxes(rng)
    with pytest.raises(MissingDependencyError, match=rf"needs {module}: .*\[{extra}\]"):
        scored(metric, found, labels)


def test_perplexity(rng):
    logits, tokens = rng.normal(size=(5, 7, 11)), rng.integers(0, 11, (5, 7))
    tokens[2, 3:] = -1
    log = log_softmax(logits, axis=2)
    taken = np.take_along_axis(log, np.maximum(tokens, 0)[..., None], 2)[..., 0][tokens >= 0]
    expected = pytest.approx(np.exp(-taken.mean()))
    assert scored("perplexity", logits, tokens) == expected
    assert scored("perplexity", np.exp(log), tokens) == expected
    found = compared("perplexity", np.where(tokens[..., None] == 3, np.nan, logits), logits, tokens)
    assert found.value > 1e300
    assert (found.unit, found.higher_is_better) == ("", False)


def test_text_that_fails_costs_every_character():
    right = np.eye(4, dtype=np.float32)[np.array([[1, 0, 2], [3, 0, 1]])]
    broken = right.copy()
    broken[0, 0, 0] = np.nan
    found = compared("cer", broken, right, [[1, 2], [3, 1]])
    assert (found.source, found.value) == (0, 0.5)
    assert compared(from_source("cer"), right, right, count=2).value == 0
