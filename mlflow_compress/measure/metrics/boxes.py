"""COCO's mean average precision of detectors."""

import contextlib
import io
from dataclasses import dataclass
from typing import Any

import numpy as np

from mlflow_compress.base.modules import require_modules
from mlflow_compress.errors import DataError
from mlflow_compress.measure.metrics.base import Arrays, Metric, Rows, Scores
from mlflow_compress.measure.metrics.reading import whole_numbers

__all__ = ["COCO_MAP", "Detections", "detections"]

_SEEN = 0.3
"""Boxes of the source with at least this score are labels, with ``labels: source``."""

_DETECTIONS = 100
"""So many boxes of an image count, those with the highest scores, as in COCO."""

_NEEDED = {"pycocotools": "mlflow-compress[boxes]"}

_EVERYWHERE = [[0.0, 1e10]]

_FORMS = (
    "[rows, boxes, 6] (x1, y1, x2, y2, score, class); or boxes of [rows, boxes, 4], scores of "
    "[rows, boxes] and classes of [rows, boxes]; or boxes of [rows, boxes, 4] and scores of "
    "[rows, boxes, classes]"
)


@dataclass(frozen=True)
class Detections:
    """Boxes that a model finds; class -1 is none.

    Attributes:
        boxes: corners x1, y1, x2, y2, [rows, boxes, 4].
        scores: [rows, boxes].
        classes: whole numbers, [rows, boxes].
    """

    boxes: np.ndarray
    scores: np.ndarray
    classes: np.ndarray


def _read(outputs: Arrays) -> tuple[str, ...]:
    """Return the names of what :func:`detections` reads."""
    for name, output in outputs.items():
        if output.ndim == 3 and output.shape[2] == 6 and output.dtype.kind == "f":
            return (name,)
    boxes = _first(outputs, lambda o: o.ndim == 3 and o.shape[2] == 4 and o.dtype.kind == "f")
    if boxes is not None:
        shape, rest = outputs[boxes].shape[:2], {k: o for k, o in outputs.items() if k != boxes}
        classes = _first(rest, lambda o: o.shape == shape and o.dtype.kind in "iu")
        scores = _first(rest, lambda o: o.shape == shape and o.dtype.kind == "f")
        if scores is not None and classes is None:
            others = {key: o for key, o in rest.items() if key != scores}
            classes = _first(others, lambda o: o.shape == shape)
        if scores is not None and classes is not None:
            return boxes, scores, classes
        per_class = _first(rest, lambda o: o.ndim == 3 and o.shape[:2] == shape)
        if per_class is not None:
            return boxes, per_class
    shapes = ", ".join(f"{name!r} {list(o.shape)}" for name, o in outputs.items())
    raise DataError(f"coco_map needs {_FORMS}; the model gives {shapes}")


def _first(outputs: Arrays, fits: Any) -> str | None:
    return next((name for name, output in outputs.items() if fits(output)), None)


def detections(outputs: Arrays) -> Detections:
    """Return the boxes that outputs tell, after suppression of what is found twice.

    Args:
        outputs: those that :func:`_read` names, in its order.

    Raises:
        DataError: the outputs tell no boxes.
    """
    arrays = list(outputs.values())
    if len(arrays) == 1:
        if arrays[0].ndim != 3 or arrays[0].shape[2] != 6:
            raise DataError(f"coco_map needs {_FORMS}; got {list(arrays[0].shape)}")
        boxes, scores, numbers = arrays[0][..., :4], arrays[0][..., 4], arrays[0][..., 5]
    elif len(arrays) == 2:
        boxes, (scores, numbers) = arrays[0], (arrays[1].max(axis=2), arrays[1].argmax(axis=2))
    else:
        boxes, scores, numbers = arrays
    sound = np.isfinite(boxes).all(axis=2) & np.isfinite(scores) & np.isfinite(numbers)
    classes = np.where(sound, numbers, -1).astype(np.int64)
    return Detections(boxes, scores, classes)


def _labels(rows: Rows) -> tuple[np.ndarray, np.ndarray]:
    """Return corners, [rows, boxes, 4], and classes, [rows, boxes], -1 where there is none."""
    if {"boxes", "classes"} <= rows.labels.keys():
        boxes, classes = rows.labels["boxes"], rows.labels["classes"]
    else:
        both = rows.labels.get("labels", np.empty(0))
        if both.ndim != 3 or both.shape[2] != 5:
            raise DataError(
                "coco_map needs labels.boxes of [rows, boxes, 4] (x1, y1, x2, y2) and "
                "labels.classes of [rows, boxes], or labels of [rows, boxes, 5] with the class "
                "last; rows with fewer boxes are filled up with class -1"
            )
        boxes, classes = both[..., :4], both[..., 4]
    if boxes.shape != (*classes.shape, 4) or classes.ndim != 2:
        raise DataError(
            f"labels.boxes of {list(boxes.shape)} and labels.classes of {list(classes.shape)} do "
            f"not match: expected [rows, boxes, 4] and [rows, boxes]"
        )
    numbers = whole_numbers(classes)
    if numbers is None:
        raise DataError("labels.classes hold other numbers than whole ones")
    return boxes.astype(np.float64), numbers


def _from_source(outputs: Arrays) -> Arrays:
    found = detections(outputs)
    classes = np.where(found.scores >= _SEEN, found.classes, -1)
    return {"boxes": found.boxes, "classes": classes}


def _score(rows: Rows) -> Scores:
    """Match boxes and labels once per image, and draw images among the matches."""
    evaluation = _evaluated(detections(rows.outputs), *_labels(rows))
    images = np.array(evaluation.evalImgs, object).reshape(-1, rows.count)  # classes · images
    classes = [_matches(of_class) for of_class in images]
    recalls = np.asarray(evaluation.params.recThrs)

    def of(drawn: np.ndarray) -> float:
        times = np.bincount(drawn, minlength=rows.count)
        found = [one.average_precision(times, recalls) for one in classes]
        told = [value for value in found if value is not None]
        return float(np.mean(told)) if told else float("nan")

    cost = sum(one.right.size for one in classes) + len(classes) * len(recalls)
    return Scores(rows.count, of, cost=cost)


@dataclass(frozen=True)
class _Matches:
    """The boxes found of one class, the highest scores first.

    Attributes:
        image: of which image each is, [boxes].
        right: whether it is matched with a label, [thresholds of IoU, boxes].
        labels: how many labels of the class each image has, [images].
    """

    image: np.ndarray
    right: np.ndarray
    labels: np.ndarray

    def average_precision(self, times: np.ndarray, recalls: np.ndarray) -> float | None:
        """Return the mean over thresholds of COCO's average precision; None without labels.

        What the evaluator's own ``accumulate`` computes, with each image counted so many times.

        Args:
            times: how often each image was drawn, [images].
            recalls: where precision is read.
        """
        there = int(times @ self.labels)
        if not there:
            return None
        weights = times[self.image]
        right = np.cumsum(self.right * weights, axis=1)
        precision = right / np.maximum(np.cumsum(weights), 1)
        # at each recall, the best precision at this or a higher one
        precision = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
        precision = np.pad(precision, ((0, 0), (0, 1)))  # recalls that are never reached
        places = (np.searchsorted(row, recalls) for row in right / there)
        return float(np.mean([row[at] for row, at in zip(precision, places, strict=True)]))


def _matches(images: np.ndarray) -> _Matches:
    """Return the matches of one class from what the evaluator says of each image."""
    told = [(number, one) for number, one in enumerate(images) if one is not None]
    labels = np.zeros(len(images), np.int64)
    scores, right, image = [np.empty(0)], [], [np.empty(0, np.int64)]
    for number, one in told:
        labels[number] = len(one["gtIds"])
        scores.append(np.asarray(one["dtScores"], np.float64))
        right.append(np.asarray(one["dtMatches"]) > 0)
        image.append(np.full(len(one["dtScores"]), number))
    order = np.argsort(-np.concatenate(scores), kind="stable")
    thresholds = np.concatenate(right, axis=1)[:, order] if right else np.empty((1, 0), bool)
    return _Matches(np.concatenate(image)[order], thresholds, labels)


def _evaluated(found: Detections, boxes: np.ndarray, classes: np.ndarray) -> Any:
    """Return COCO's evaluator, done with what concerns single images.

    Raises:
        MissingDependencyError: pycocotools is not installed.
    """
    require_modules(_NEEDED, "metric 'coco_map'")
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    images = [{"id": row} for row in range(len(classes))]
    numbers = sorted({*classes[classes >= 0].tolist(), *found.classes[found.classes >= 0].tolist()})
    categories = [{"id": number} for number in numbers]
    truth, given = COCO(), COCO()
    truth.dataset = _document(images, categories, _boxes(boxes, classes))
    given.dataset = _document(images, categories, _boxes(found.boxes, found.classes, found.scores))
    with contextlib.redirect_stdout(io.StringIO()):
        truth.createIndex()
        given.createIndex()
        evaluation = COCOeval(truth, given, "bbox")
        evaluation.params.areaRng, evaluation.params.areaRngLbl = _EVERYWHERE, ["all"]
        evaluation.params.maxDets = [_DETECTIONS]
        evaluation.evaluate()
    return evaluation


def _document(images: list[Any], categories: list[Any], boxes: list[Any]) -> dict[str, Any]:
    return {"images": images, "categories": categories, "annotations": boxes}


def _boxes(
    corners: np.ndarray, classes: np.ndarray, scores: np.ndarray | None = None
) -> list[dict[str, Any]]:
    """Return boxes as COCO writes them: corner, width and height."""
    written = []
    for number, (row, place) in enumerate(np.argwhere(classes >= 0).tolist(), start=1):
        x1, y1, x2, y2 = (float(value) for value in corners[row, place])
        one: dict[str, Any] = {
            "id": number,
            "image_id": row,
            "category_id": int(classes[row, place]),
            "bbox": [x1, y1, x2 - x1, y2 - y1],
            "area": (x2 - x1) * (y2 - y1),
            "iscrowd": 0,
        }
        if scores is not None:
            one["score"] = float(scores[row, place])
        written.append(one)
    return written


COCO_MAP = Metric(
    "coco_map",
    _score,
    reads=_read,
    from_source=_from_source,
    draws=200,
    undefined="the labels have no boxes",
    needs_modules=_NEEDED,
)
