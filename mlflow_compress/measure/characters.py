"""Texts that a model reads, and the edits between them and the texts that are there."""

from collections.abc import Mapping, Sequence

import numpy as np

from mlflow_compress.errors import DataError

__all__ = ["character_edits", "class_numbers", "edit_distance", "error_rate", "texts"]

_BLANK = 0
"""The class that CTC puts between characters."""


def character_edits(outputs: Mapping[str, np.ndarray], labels: np.ndarray) -> np.ndarray:
    """Return [rows, 2]: edits from the text read to the label, and the label's length.

    The output is the first of text, [rows]; else the first of CTC scores, [rows, steps, classes],
    or of the best class of each step, [rows, steps]. Graves et al., "Connectionist Temporal
    Classification", 2006, section 3.2: repeats are merged, then blanks (class 0) dropped.

    Args:
        outputs: outputs by name.
        labels: text, [rows]; or class numbers, [rows, longest], filled up with -1. Text labels
            need all characters that the model knows, in sorted order after the blank.

    Raises:
        DataError: labels and output do not fit each other.
    """
    text = next((o for o in outputs.values() if o.dtype.kind in "UOS"), None)
    if text is not None:
        return _edits(*_text_pairs(text, labels))
    steps, classes = _best_classes(outputs)
    if len(steps) != len(labels):
        raise DataError(f"there are {len(labels)} labels for {len(steps)} rows of output")
    return _edits([_collapsed(row) for row in steps], _numbers(labels, classes))


def texts(
    outputs: Mapping[str, np.ndarray], labels: np.ndarray
) -> tuple[Sequence[str], Sequence[str]]:
    """Return the text read and the label of each row; outputs as in :func:`character_edits`.

    Args:
        outputs: outputs by name.
        labels: text, [rows]; with CTC scores, of all characters that the model knows.

    Raises:
        DataError: labels and output do not fit each other.
    """
    text = next((o for o in outputs.values() if o.dtype.kind in "UOS"), None)
    if text is not None:
        return _text_pairs(text, labels)
    if labels.dtype.kind not in "US":
        raise DataError(f"words need labels of text, got {labels.dtype}: use cer")
    steps, classes = _best_classes(outputs)
    if len(steps) != labels.size:
        raise DataError(f"there are {labels.size} labels for {len(steps)} rows of output")
    known = _alphabet(labels, classes)
    given = ["".join("\0" if n < 0 else known[n - 1] for n in _collapsed(row)) for row in steps]
    return given, [str(one) for one in labels.reshape(-1)]


def class_numbers(output: np.ndarray) -> np.ndarray:
    """Return the class numbers that a CTC output reads, [rows, longest], filled up with -1."""
    steps, _ = _best_classes({"output": output})
    found = [_collapsed(row) for row in steps]
    numbers = np.full((len(found), max(1, *map(len, found))), -1)
    for row, one in zip(numbers, found, strict=True):
        row[: len(one)] = one
    return numbers


def error_rate(edits: np.ndarray) -> float:
    """Return edits per character of the labels; each row counts by its length."""
    length = float(edits[:, 1].sum())
    if not length:
        raise DataError("the labels have no characters at all, so cer cannot be measured")
    return float(edits[:, 0].sum()) / length


def edit_distance(given: Sequence[object], wanted: Sequence[object]) -> int:
    """Return the least number of insertions, deletions and replacements (Levenshtein, 1966)."""
    codes: dict[object, int] = {}
    a, b = ([codes.setdefault(item, len(codes)) for item in items] for items in (given, wanted))
    target, places = np.array(b, np.int64), np.arange(len(b) + 1)
    row = places.copy()
    for count, item in enumerate(a, start=1):
        best = np.minimum(row[1:] + 1, row[:-1] + (target != item))
        best = np.concatenate([[count], best])
        row = np.minimum.accumulate(best - places) + places
    return int(row[-1])


def _edits(given: Sequence[Sequence[object]], wanted: Sequence[Sequence[object]]) -> np.ndarray:
    pairs = zip(given, wanted, strict=True)
    return np.array([(edit_distance(g, w), len(w)) for g, w in pairs], np.float64)


def _text_pairs(text: np.ndarray, labels: np.ndarray) -> tuple[Sequence[str], Sequence[str]]:
    given, wanted = (_text_rows(a, labels, w) for a, w in ((text, "output"), (labels, "labels")))
    return [str(one) for one in given], [str(one) for one in wanted]


def _text_rows(array: np.ndarray, labels: np.ndarray, what: str) -> np.ndarray:
    if array.dtype.kind not in "UOS" or array.size != len(labels):
        raise DataError(
            f"cer needs one text per row; the {what} has shape {list(array.shape)} and dtype "
            f"{array.dtype} for {len(labels)} rows"
        )
    return array.reshape(-1).astype(np.str_)


def _best_classes(outputs: Mapping[str, np.ndarray]) -> tuple[np.ndarray, int | None]:
    """Return the best class of each step, [rows, steps], and how many classes there are."""
    for output in outputs.values():
        if output.dtype.kind == "f" and output.ndim == 3:
            # a step with a NaN reads a character that no label has
            best = np.where(np.isnan(output).any(axis=2), -1, output.argmax(axis=2))
            return best, output.shape[2]
    for output in outputs.values():
        if output.dtype.kind in "iu" and output.ndim == 2:
            return output, None
    shapes = ", ".join(f"{name!r} {list(o.shape)}" for name, o in outputs.items())
    raise DataError(
        f"cer needs text, CTC scores of [rows, steps, classes] or classes of [rows, steps]; the "
        f"model gives {shapes}"
    )


def _collapsed(steps: np.ndarray) -> list[int]:
    first = np.concatenate([[True], steps[1:] != steps[:-1]]) if len(steps) else steps
    return [int(one) for one in steps[first & (steps != _BLANK)]] if len(steps) else []


def _numbers(labels: np.ndarray, classes: int | None) -> list[Sequence[object]]:
    """Return each label as class numbers."""
    if labels.dtype.kind in "US":
        known = _alphabet(labels, classes)
        place = {character: number for number, character in enumerate(known, start=1)}
        return [[place[c] for c in str(one)] for one in labels.reshape(-1)]
    if labels.ndim != 2 or labels.dtype.kind not in "iu":
        raise DataError(
            f"cer needs labels of text, or class numbers of [rows, longest] filled up with -1; got "
            f"{labels.dtype} of shape {list(labels.shape)}"
        )
    top = int(labels.max(initial=0))
    if classes is not None and top >= classes:
        raise DataError(f"a label has class {top}, the model has {classes} (0 to {classes - 1})")
    if (labels == _BLANK).any():
        raise DataError("a label has class 0, which is CTC's blank; fill up with -1")
    return [[int(one) for one in row if one >= 0] for row in labels]


def _alphabet(labels: np.ndarray, classes: int | None) -> list[str]:
    """Return the characters of text labels, sorted; they must be all that the model knows."""
    known = sorted(set("".join(labels.reshape(-1).astype(np.str_))))
    if classes != len(known) + 1:
        told = "class numbers" if classes is None else f"{classes} classes with the blank"
        raise DataError(
            f"the labels have {len(known)} different characters, the model tells {told}; give "
            f"the labels as class numbers of [rows, longest], filled up with -1"
        )
    return known
