"""Metrics of what is read, spoken or written: texts, CTC outputs, and next tokens."""

from collections.abc import Callable

import numpy as np
from scipy.special import logsumexp

from mlflow_compress.base.modules import require_modules
from mlflow_compress.errors import DataError
from mlflow_compress.measure.characters import character_edits, class_numbers, error_rate, texts
from mlflow_compress.measure.metrics.base import Arrays, Metric, Rows, by_row
from mlflow_compress.measure.metrics.reading import best_class, floats_first

__all__ = ["CER", "PERPLEXITY", "WER"]


_NEEDED = {"jiwer": "mlflow-compress[text]"}


def _characters(rows: Rows) -> np.ndarray:
    return character_edits(rows.outputs, rows.wanted)


def _words(rows: Rows) -> np.ndarray:
    """Return [rows, 2]: edits of words from the text read to the label, and the label's words."""
    align = _aligner()
    given, wanted = texts(rows.outputs, rows.wanted)
    return np.array([align(w, g) for g, w in zip(given, wanted, strict=True)], np.float64)


def _aligner() -> Callable[[str, str], tuple[int, int]]:
    """Return what takes a label and a text to the edits and the label's words.

    Raises:
        MissingDependencyError: jiwer is not installed.
    """
    require_modules(_NEEDED, "metric 'wer'")
    from jiwer import process_words

    def align(wanted: str, given: str) -> tuple[int, int]:
        if not wanted.split():  # jiwer refuses an empty label
            return len(given.split()), 0
        found = process_words(wanted, given)
        edits = found.substitutions + found.deletions + found.insertions
        return edits, found.hits + found.substitutions + found.deletions

    return align


def _word_rate(edits: np.ndarray) -> float:
    return float(edits[:, 0].sum() / edits[:, 1].sum()) if edits[:, 1].any() else float("nan")


def _surprise(rows: Rows) -> np.ndarray:
    """Return [rows, 2]: the sum of -log of the labels' probabilities in nats, and their number."""
    scores, labels = rows.output, rows.wanted
    if scores.dtype.kind != "f" or labels.dtype.kind not in "iu" or scores.ndim != labels.ndim + 1:
        raise DataError(
            f"perplexity needs scores of [rows, steps, tokens] and token numbers of [rows, steps] "
            f"as labels, -1 where there is none; got {scores.dtype} of {list(scores.shape)} and "
            f"{labels.dtype} of {list(labels.shape)}"
        )
    if labels.shape != scores.shape[:-1] or labels.max(initial=0) >= scores.shape[-1]:
        raise DataError(
            f"labels of {list(labels.shape)} up to {labels.max(initial=0)} do not fit scores of "
            f"{list(scores.shape)}"
        )
    counted = labels >= 0
    wanted = np.where(counted, labels, 0)[..., None]
    values = scores.astype(np.float64)
    log = np.take_along_axis(values, wanted, axis=-1)[..., 0]
    if _are_probabilities(rows.telling):
        with np.errstate(divide="ignore", invalid="ignore"):
            log = np.log(log)
    else:
        log = log - logsumexp(values, axis=-1)
    surprise = np.where(np.isnan(log), np.inf, -log)
    sums = np.where(counted, surprise, 0).reshape(rows.count, -1).sum(axis=1)
    return np.stack([sums, counted.reshape(rows.count, -1).sum(axis=1)], axis=1)


def _are_probabilities(scores: np.ndarray) -> bool:
    finite = scores[np.isfinite(scores).all(axis=-1)]
    sums = finite.sum(axis=-1, dtype=np.float64)
    return bool((finite >= 0).all() and np.allclose(sums, 1, atol=1e-2))


def _perplexity(surprise: np.ndarray) -> float:
    sums, counts = surprise.sum(axis=0)
    return float(np.exp(min(sums / counts, 700.0))) if counts else float("nan")


def _best_tokens(outputs: Arrays) -> Arrays:
    ((name, scores),) = outputs.items()
    return {name: best_class(scores, scores.ndim - 1)}


def _readable(outputs: Arrays) -> tuple[str, ...]:
    """Return the first output of text, else of CTC scores, else of the best class per step."""
    for kinds, axes in (("UOS", (1, 2)), ("f", (3,)), ("iu", (2,))):
        for name, output in outputs.items():
            if output.dtype.kind in kinds and output.ndim in axes:
                return (name,)
    return tuple(outputs)


def _text_read(outputs: Arrays) -> Arrays:
    """Return the source's text, or the class numbers that its CTC scores collapse to."""
    ((name, output),) = outputs.items()
    if output.dtype.kind in "UOS":
        return {name: output}
    return {name: class_numbers(output)}


CER = Metric(
    "cer",
    by_row(_characters, error_rate),
    reads=_readable,
    higher_is_better=False,
    from_source=_text_read,
)
WER = Metric(
    "wer",
    by_row(_words, _word_rate),
    reads=_readable,
    higher_is_better=False,
    undefined="the labels have no words at all",
    needs_modules=_NEEDED,
)
PERPLEXITY = Metric(
    "perplexity",
    by_row(_surprise, _perplexity),
    reads=floats_first,
    higher_is_better=False,
    unit="",
    from_source=_best_tokens,
    undefined="the labels have no tokens at all",
)
