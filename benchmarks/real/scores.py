"""What a model is for, as numbers: higher is better in all, and the first is what is compared.

Each function takes the source's outputs, a variant's of the same rows, and what :class:`Rows`
has beside the inputs.
"""

from collections.abc import Callable, Iterator

import numpy as np

from real import boxes
from real.spectra import HOP, sound_of, spectrum
from real.store import Arrays

Scores = dict[str, float]
Score = Callable[[Arrays, Arrays, Arrays], Scores]


def _rows(outputs: Arrays, name: str) -> np.ndarray:
    found = outputs[name]
    return found.reshape(len(found), -1).astype(np.float64)


def classes(name: str) -> Score:
    """Accuracy by labels, and agreement with the source."""

    def score(source: Arrays, given: Arrays, truth: Arrays) -> Scores:
        ours, theirs = given[name].argmax(axis=1), source[name].argmax(axis=1)
        return {
            "accuracy": float(np.mean(ours == truth["labels"])),
            "agreement": float(np.mean(ours == theirs)),
        }

    return score


def detector(read: Callable[[Arrays], Iterator[boxes.Boxes]]) -> Score:
    """F1 of the boxes against the source's, and how many the source has."""

    def score(source: Arrays, given: Arrays, truth: Arrays) -> Scores:
        wanted = list(read(source))
        return {
            "box F1": boxes.f1(wanted, list(read(given))),
            "boxes": float(sum(len(one) for one, _ in wanted)),
        }

    return score


def values(name: str, columns: int | None = None) -> Score:
    """R² of scores against the source's, the worst column's, and minus the mean error."""

    def score(source: Arrays, given: Arrays, truth: Arrays) -> Scores:
        wanted, found = (one[name].reshape(-1, columns or 1) for one in (source, given))
        if columns is None:
            wanted, found = _rows(source, name), _rows(given, name)
        lost = ((wanted - found) ** 2).mean(axis=0) / np.maximum(wanted.var(axis=0), 1e-12)
        return {"R²": float(1 - lost.max()), "-MAE": -float(np.abs(wanted - found).mean())}

    return score


def signal(name: str) -> Score:
    """Power of the source's output, less its mean, over the error's, in dB."""

    def score(source: Arrays, given: Arrays, truth: Arrays) -> Scores:
        wanted, found = source[name].astype(np.float64), given[name]
        return {"SNR dB": _decibels(wanted.var(), ((wanted - found) ** 2).mean())}

    return score


def denoised(source: Arrays, given: Arrays, truth: Arrays) -> Scores:
    """SI-SDR of the cleaned sound against the clean one, and the gains' SNR against the source's.

    Le Roux and others, "SDR - half-baked or well done?", ICASSP 2019.
    """
    found = sound_of(spectrum(truth["noisy"]) * given["output"])
    clean = truth["clean"][:, HOP : HOP + found.shape[1]]
    wanted = (found * clean).sum(1, keepdims=True) / (clean**2).sum(1, keepdims=True) * clean
    each = [
        _decibels((target**2).sum(), ((one - target) ** 2).sum())
        for one, target in zip(found, wanted, strict=True)
    ]
    return {"SI-SDR dB": float(np.mean(each)), **signal("output")(source, given, truth)}


def _decibels(power: float, error: float) -> float:
    return float(10 * np.log10(max(power, 1e-30) / max(error, 1e-30)))


def _cosines(source: Arrays, given: Arrays, name: str) -> np.ndarray:
    wanted, found = _rows(source, name), _rows(given, name)
    lengths = np.linalg.norm(wanted, axis=1) * np.linalg.norm(found, axis=1)
    return np.asarray((wanted * found).sum(axis=1) / np.maximum(lengths, 1e-12))


def embedding(name: str) -> Score:
    """Mean cosine with the source's vectors, and the worst."""

    def score(source: Arrays, given: Arrays, truth: Arrays) -> Scores:
        cosines = _cosines(source, given, name)
        return {"cosine": float(cosines.mean()), "worst": float(cosines.min())}

    return score


def neighbours(name: str) -> Score:
    """Share of rows whose nearest other row is the one it is by the source; mean cosine."""

    def nearest(outputs: Arrays) -> np.ndarray:
        vectors = _rows(outputs, name)
        vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
        likeness = vectors @ vectors.T
        np.fill_diagonal(likeness, -2)
        return np.asarray(likeness.argmax(axis=1))

    def score(source: Arrays, given: Arrays, truth: Arrays) -> Scores:
        same = nearest(source) == nearest(given)
        cosines = _cosines(source, given, name)
        return {"neighbour": float(same.mean()), "cosine": float(cosines.mean())}

    return score


def speakers(source: Arrays, given: Arrays, truth: Arrays) -> Scores:
    """As :func:`neighbours`; share of odd rows whose voice the even rows' mean vectors tell."""
    vectors, labels = given["embed"], truth["labels"]
    voices = np.unique(labels)
    means = [vectors[::2][labels[::2] == voice].mean(axis=0) for voice in voices]
    guessed = voices[(vectors[1::2] @ np.stack(means).T).argmax(axis=1)]
    right = float(np.mean(guessed == labels[1::2]))
    return {**neighbours("embed")(source, given, truth), "speakers": right}


def text(name: str) -> Score:
    """Share of characters read right, greedily decoded, and of lines read as the source does."""

    def read(likely: np.ndarray, alphabet: np.ndarray) -> list[str]:
        chosen = likely.argmax(axis=2)
        new = np.diff(chosen, axis=1, prepend=-1) != 0
        return ["".join(alphabet[row[keep]]) for row, keep in zip(chosen, new, strict=True)]

    def score(source: Arrays, given: Arrays, truth: Arrays) -> Scores:
        wanted, found = (read(one[name], truth["alphabet"]) for one in (source, given))
        labels = [str(label) for label in truth["labels"]]
        wrong = sum(map(edits, labels, found))
        return {
            "characters": 1 - wrong / sum(map(len, labels)),
            "same text": float(np.mean([a == b for a, b in zip(wanted, found, strict=True)])),
        }

    return score


def edits(wanted: str, found: str) -> int:
    """Return the Levenshtein distance."""
    before = list(range(len(found) + 1))
    for row, letter in enumerate(wanted, 1):
        now = [row]
        for column, other in enumerate(found, 1):
            changed = before[column - 1] + (letter != other)
            now.append(min(changed, before[column] + 1, now[-1] + 1))
        before = now
    return before[-1]


def area(name: str, threshold: float) -> Score:
    """Intersection over union of what lies above the threshold, over all rows."""

    def score(source: Arrays, given: Arrays, truth: Arrays) -> Scores:
        wanted, found = source[name] > threshold, given[name] > threshold
        return {"IoU": float((wanted & found).sum() / max((wanted | found).sum(), 1))}

    return score


def spelled(source: Arrays, given: Arrays, truth: Arrays) -> Scores:
    """Share of names spelled as by the source, and of letters."""
    same = source["spelled"] == given["spelled"]
    return {
        "same names": float(same.all(axis=1).mean()),
        "letters": float(same[source["spelled"] > 0].mean()),
    }


def speech(source: Arrays, given: Arrays, truth: Arrays) -> Scores:
    """Share of calls decided as by the source, in order and with its own state; accuracy."""
    wanted, found = (one["output"][:, 0] > 0.5 for one in (source, given))
    return {
        "same decision": float(np.mean(wanted == found)),
        "accuracy": float(np.mean(found == truth["labels"])),
    }


_MAPS = {  # basicpitch's outputs and the thresholds of its package
    "StatefulPartitionedCall:1": 0.3,
    "StatefulPartitionedCall:2": 0.5,
    "StatefulPartitionedCall:0": 0.3,
}


def notes(source: Arrays, given: Arrays, truth: Arrays) -> Scores:
    """F1 of notes, onsets and contours against the source's, their mean; of notes as played."""

    def f1(wanted: np.ndarray, found: np.ndarray) -> float:
        return float(2 * (wanted & found).sum() / max(wanted.sum() + found.sum(), 1))

    each = [f1(source[name] > limit, given[name] > limit) for name, limit in _MAPS.items()]
    sounding = given["StatefulPartitionedCall:1"] > 0.3
    return {"note F1": float(np.mean(each)), "played": f1(truth["notes"], sounding)}
