"""COCO's mean average precision of detectors."""

import contextlib
import io
from dataclasses import dataclass
from typing import Any

import numpy as np

from mlflow_compress.errors import DataError, MissingDependencyError
from mlflow_compress.measure.metrics.base import Arrays, Metric, Rows, Scores

__all__ = ["COCO_MAP", "Detections", "detections"]

_SEEN = 0.3
"""Boxes of the source with at least this score are labels, with ``labels: source``."""

_DETECTIONS = 100
"""So many boxes of an image count, those with the highest scores, as in COCO."""

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
    return boxes.astype(np.float64), classes.astype(np.int64)


def _from_source(outputs: Arrays) -> Arrays:
    found = detections(outputs)
    classes = np.where(found.scores >= _SEEN, found.classes, -1)
    return {"boxes": found.boxes, "classes": classes}


def _score(rows: Rows) -> Scores:
    """Match boxes and labels once per image, and draw images among the matches."""
    evaluation = _evaluated(detections(rows.outputs), *_labels(rows))
    matches = np.empty(len(evaluation.evalImgs), object)
    matches[:] = evaluation.evalImgs
    by_class = matches.reshape(-1, rows.count)  # classes · images; the one range of areas

    def of(drawn: np.ndarray) -> float:
        # the number of images stays: the evaluator knows them by their place
        evaluation.evalImgs = list(by_class[:, drawn].reshape(-1))
        with contextlib.redirect_stdout(io.StringIO()):
            evaluation.accumulate()
        precision = evaluation.eval["precision"]
        told = precision[precision > -1]  # -1: a class without labels
        return float(told.mean()) if told.size else float("nan")

    return Scores(rows.count, of, cost=0)


def _evaluated(found: Detections, boxes: np.ndarray, classes: np.ndarray) -> Any:
    """Return COCO's evaluator, done with what concerns single images.

    Raises:
        MissingDependencyError: pycocotools is not installed.
    """
    try:
        from pycocotools.coco import COCO
        from pycocotools.cocoeval import COCOeval
    except ImportError as error:
        raise MissingDependencyError(
            "metric 'coco_map' needs pycocotools: pip install 'mlflow-compress[boxes]'"
        ) from error
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
)
