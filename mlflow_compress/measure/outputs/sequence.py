"""Sequences: what is read out of scores per step, by greedy decoding."""

import numpy as np

from mlflow_compress.measure.characters import edit_distance
from mlflow_compress.measure.outputs.pairs import broken_rows
from mlflow_compress.records import Output
from mlflow_compress.rows import Array

__all__ = ["compare_sequences", "decoded"]


def compare_sequences(spec: Output, variant: Array, source: Array) -> tuple[np.ndarray, np.ndarray]:
    """Return [rows, 3]: edits, symbols of the source, 1 where both read the same; and broken rows.

    A row that is not finite counts as if nothing of it was read.
    """
    found, broken = [], []
    for given, wanted in zip(variant, source, strict=True):
        one, other = np.asarray(given), np.asarray(wanted)
        bad = one.shape == other.shape and bool(broken_rows(one[None], other[None])[0])
        reference = decoded(spec, other)
        read = [] if bad else decoded(spec, one)
        edits = max(edit_distance(read, reference), int(bad))
        found.append((edits, len(reference), float(edits == 0)))
        broken.append(bad)
    return np.array(found, np.float64).reshape(-1, 3), np.array(broken, bool)


def decoded(spec: Output, row: np.ndarray) -> list[int]:
    """Return the symbols that one row of scores, [steps, classes], or of symbols, [steps], reads.

    Settings: ``blank`` is the class that CTC puts between symbols (0 by default, -1 the last;
    Graves et al., "Connectionist Temporal Classification", 2006, section 3.2); a decoder's output
    has ``ctc: false``, and ``end`` is the symbol that ends it.
    """
    steps = row
    if row.ndim > 1:
        axis = -1 if spec.axis is None else spec.axis - 1
        scores = np.moveaxis(row, axis, -1)
        steps = np.where(np.isnan(scores), -np.inf, scores).argmax(axis=-1).reshape(-1)
        classes = scores.shape[-1]
    else:
        classes = int(row.max(initial=0)) + 1
    if spec.settings.get("ctc", True):
        blank = int(spec.settings.get("blank", 0)) % classes
        first = np.concatenate([[True], steps[1:] != steps[:-1]]) if len(steps) else steps
        steps = steps[first & (steps != blank)] if len(steps) else steps
    symbols = [int(symbol) for symbol in steps]
    end = spec.settings.get("end")
    if end is not None and int(end) in symbols:
        symbols = symbols[: symbols.index(int(end))]
    return symbols
