"""Boxes: precision, recall and average precision against the boxes that the source finds.

Raw heads, as YOLO exports them, are read as their own post-processing does: scores above a
threshold, then non-maximum suppression per class. Boxes that a model suppressed itself are taken as
they are.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from mlflow_compress.errors import ConfigError
from mlflow_compress.measure.outputs.pairs import broken_rows
from mlflow_compress.records import Output
from mlflow_compress.rows import Array

__all__ = ["BoxRows", "Found", "compare_boxes", "find_boxes", "overlaps", "suppressed"]

_OVERLAPS = np.arange(0.5, 1.0, 0.05)
"""Those that the mean average precision is averaged over, as COCO has it."""

_MOST = 300
"""Boxes of one row, the best ones."""


@dataclass(frozen=True)
class Found:
    """The boxes of one row.

    Attributes:
        boxes: left, top, right, bottom, [boxes, 4].
        scores: [boxes], falling.
        classes: [boxes].
    """

    boxes: np.ndarray
    scores: np.ndarray
    classes: np.ndarray


@dataclass(frozen=True)
class BoxRows:
    """What each row says.

    Attributes:
        hits: the variant's boxes that the source has, the variant's, and the source's, [rows, 3].
        broken: rows that are not finite, [rows] of bool; nothing is found in them.
        matches: per row, what :meth:`average_precision` is computed from.
    """

    hits: np.ndarray
    broken: np.ndarray
    matches: tuple["_Matches", ...]

    def average_precision(self, rows: np.ndarray | None = None) -> float:
        """Return the mean over classes and overlaps; 1 where neither model finds anything.

        Everingham et al., "The Pascal Visual Object Classes challenge", 2010, section 4.2, with the
        overlaps of COCO; the area under the interpolated curve, at all points.
        """
        chosen = self.matches if rows is None else [self.matches[row] for row in rows]
        wanted = np.concatenate([one.wanted for one in chosen]) if chosen else np.zeros(0)
        scores = np.concatenate([one.scores for one in chosen]) if chosen else np.zeros(0)
        classes = np.concatenate([one.classes for one in chosen]) if chosen else np.zeros(0)
        hits = np.concatenate([one.hits for one in chosen]) if chosen else np.zeros((0, 1), bool)
        if not len(wanted):
            return 1.0 if not len(scores) else 0.0
        order = np.argsort(-scores, kind="stable")
        classes, hits = classes[order], hits[order]
        areas = [
            _area(hits[classes == number], int((wanted == number).sum()))
            for number in np.unique(wanted)
        ]
        return float(np.mean(areas))


@dataclass(frozen=True)
class _Matches:
    """A row's part in the average precision: the source's classes; the variant's, with hits."""

    wanted: np.ndarray
    scores: np.ndarray
    classes: np.ndarray
    hits: np.ndarray


def compare_boxes(
    spec: Output, variant: Mapping[str, Array], source: Mapping[str, Array]
) -> BoxRows:
    """Compare the boxes of each row.

    Raises:
        ConfigError: the output cannot hold boxes of the format that was said.
    """
    count = len(source[spec.name])
    hits, broken, matches = [], [], []
    for row in range(count):
        one = {name: np.asarray(output[row]) for name, output in variant.items()}
        other = {name: np.asarray(output[row]) for name, output in source.items()}
        given, wanted = one[spec.name], other[spec.name]
        bad = given.shape == wanted.shape and bool(broken_rows(given[None], wanted[None])[0])
        reference = find_boxes(spec, other)
        found = find_boxes(spec, one) if not bad else _none()
        table = _hits(found, reference)
        same = int(table[:, 0].sum())
        hits.append((same, len(found.boxes), len(reference.boxes)))
        broken.append(bad)
        matches.append(_Matches(reference.classes, found.scores, found.classes, table))
    return BoxRows(np.array(hits, np.float64), np.array(broken, bool), tuple(matches))


def find_boxes(spec: Output, row: Mapping[str, np.ndarray]) -> Found:
    """Return the boxes in one row of a model's outputs.

    Settings: ``scores`` is the first column of scores, or the output that has them; ``classes`` the
    column or output of class numbers, where boxes have one; ``objectness`` the column that scores
    are multiplied by; ``threshold`` (0.25) and ``iou`` (0.45) of the suppression, which ``nms:
    false`` leaves out.
    """
    table = _table(spec, row[spec.name])
    scores, classes = _scores(spec, table, row)
    boxes = _corners(table[:, :4].astype(np.float64), spec.form)
    keep = scores >= float(spec.settings.get("threshold", 0.25))
    keep &= np.isfinite(boxes).all(axis=1)
    boxes, scores, classes = boxes[keep], scores[keep], classes[keep]
    order = np.argsort(-scores, kind="stable")[: 10 * _MOST]
    boxes, scores, classes = boxes[order], scores[order], classes[order]
    if spec.settings.get("nms", True):
        kept = suppressed(boxes, classes, float(spec.settings.get("iou", 0.45)))
        boxes, scores, classes = boxes[kept], scores[kept], classes[kept]
    return Found(boxes[:_MOST], scores[:_MOST], classes[:_MOST])


def suppressed(boxes: np.ndarray, classes: np.ndarray, iou: float) -> np.ndarray:
    """Return the indices that non-maximum suppression per class keeps, of boxes sorted by score."""
    left = np.arange(len(boxes))
    kept: list[int] = []
    while len(left) and len(kept) < _MOST:
        first, left = left[0], left[1:]
        kept.append(first)
        near = overlaps(boxes[first : first + 1], boxes[left])[0] > iou
        left = left[~(near & (classes[left] == classes[first]))]
    return np.array(kept, np.int64)


def overlaps(some: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Return the intersection over union of each pair of boxes, [some, others]."""
    low = np.maximum(some[:, None, :2], others[None, :, :2])
    high = np.minimum(some[:, None, 2:], others[None, :, 2:])
    inside = np.maximum(high - low, 0).prod(axis=-1)
    areas = [np.maximum(b[:, 2:] - b[:, :2], 0).prod(axis=-1) for b in (some, others)]
    union = areas[0][:, None] + areas[1][None, :] - inside
    return inside / np.where(union > 0, union, 1)


def _none() -> Found:
    return Found(np.zeros((0, 4)), np.zeros(0), np.zeros(0, np.int64))


def _table(spec: Output, output: np.ndarray) -> np.ndarray:
    """Return [boxes, columns] of one row."""
    if output.ndim != 2 or (spec.axis not in (None, 1, 2)):
        raise ConfigError(
            f"output {spec.name!r}: boxes are read from [rows, boxes, columns], or with axis: 1 "
            f"from [rows, columns, boxes], got {['rows', *output.shape]} and axis {spec.axis}"
        )
    table = output.T if spec.axis == 1 else output
    if table.shape[1] < 4:
        raise ConfigError(
            f"output {spec.name!r}: boxes need 4 columns at least, there are {table.shape[1]}; "
            "columns are along axis 2, or say axis: 1"
        )
    return table


def _scores(
    spec: Output, table: np.ndarray, row: Mapping[str, np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """Return each box's score and class."""
    place = spec.settings.get("scores", 4)
    if isinstance(place, str):
        scores = _of(spec, row, place).astype(np.float64).reshape(len(table), -1)
    elif place >= table.shape[1]:
        raise ConfigError(
            f"output {spec.name!r}: scores begin at column {place}, there are {table.shape[1]}"
        )
    else:
        scores = table[:, int(place) :].astype(np.float64)
    named = spec.settings.get("classes")
    if isinstance(named, str):
        classes = _of(spec, row, named).reshape(len(table))
        return np.nan_to_num(scores[:, 0]), classes.astype(np.int64)
    if named is not None:
        classes = np.nan_to_num(table[:, int(named)]).astype(np.int64)
        return np.nan_to_num(table[:, int(place)].astype(np.float64)), classes
    if "objectness" in spec.settings:
        scores = scores * table[:, int(spec.settings["objectness"])].astype(np.float64)[:, None]
    scores = np.nan_to_num(scores, nan=-np.inf)
    return scores.max(axis=1), scores.argmax(axis=1)


def _of(spec: Output, row: Mapping[str, np.ndarray], name: str) -> np.ndarray:
    if name not in row:
        raise ConfigError(
            f"output {spec.name!r}: the model has no output {name!r}; it has {', '.join(row)}"
        )
    return row[name]


def _corners(boxes: np.ndarray, form: str) -> np.ndarray:
    """Return left, top, right, bottom."""
    if form == "xyxy":
        return boxes
    size = boxes[:, 2:]
    low = boxes[:, :2] - size / 2 if form == "cxcywh" else boxes[:, :2]
    return np.concatenate([low, low + size], axis=1)


def _hits(found: Found, reference: Found) -> np.ndarray:
    """Return whether each box is one of the reference's, by overlap, [boxes, overlaps].

    Boxes are matched from the best score down, each with the free one of its class that it overlaps
    most.
    """
    table = np.zeros((len(found.boxes), len(_OVERLAPS)), bool)
    if not len(found.boxes) or not len(reference.boxes):
        return table
    near = overlaps(found.boxes, reference.boxes)
    near[found.classes[:, None] != reference.classes[None, :]] = -1
    for column, least in enumerate(_OVERLAPS):
        free = np.ones(len(reference.boxes), bool)
        for box in range(len(found.boxes)):
            best = int(np.where(free, near[box], -1).argmax())
            if free[best] and near[box, best] >= least - 1e-9:
                table[box, column] = True
                free[best] = False
    return table


def _area(hits: np.ndarray, wanted: int) -> float:
    """Return the area under precision over recall, mean over overlaps; hits by falling score."""
    if not len(hits):
        return 0.0
    found = np.cumsum(hits, axis=0)
    precision = found / np.arange(1, len(hits) + 1)[:, None]
    precision = np.maximum.accumulate(precision[::-1], axis=0)[::-1]
    return float((precision * hits).sum(axis=0).mean() / wanted)
