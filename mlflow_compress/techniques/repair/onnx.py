"""Repairs a model by calibration rows, one kind of change after the other, each judged.

Every fifth row is held back. A change after which the outputs on these rows are farther from the
source's than before is undone.
"""

from collections.abc import Callable

import numpy as np
from onnx import ModelProto

from mlflow_compress.errors import TechniqueError
from mlflow_compress.rows import Rows
from mlflow_compress.techniques.base import Context, Result
from mlflow_compress.techniques.fitting.codebooks import refit_weights
from mlflow_compress.techniques.fitting.least_squares import Pair
from mlflow_compress.techniques.fitting.rounding import round_biases
from mlflow_compress.techniques.fitting.statistics import match_biases, match_norms, offsets
from mlflow_compress.techniques.graph.running import (
    all_outputs,
    batches,
    check_calibration,
    output_change,
)
from mlflow_compress.techniques.graph.walk import (
    clone,
    initializers,
)
from mlflow_compress.techniques.repair.settings import RepairSettings

__all__ = ["restore"]

_HELD_BACK = 5

Change = Callable[[Pair, int], tuple[int, list[str]]]
"""Changes ``pair.changed.model`` in place; returns how many places it changed, and notes."""


def restore(model: ModelProto, settings: RepairSettings, context: Context) -> Result:
    """Bring the outputs of a model back towards those of ``context.reference``.

    Raises:
        TechniqueError: there is no reference, calibration inputs are missing, or the model's
            outputs are not those of the reference.
    """
    reference = context.reference
    if reference is None:
        raise TechniqueError("repair has nothing to repair: put it after a lossy technique")
    inputs = check_calibration(model, context.calibration)
    seen, held = _split(inputs, settings.rows)
    judge = list(batches(model, held, rows=settings.rows))
    wanted = all_outputs(reference, judge)
    changes: list[tuple[str, bool, Change]] = [
        ("weights", settings.weights, refit_weights),
        ("norms", settings.norms, match_norms),
        ("biases", settings.biases, match_biases),
    ]
    made, notes = model, []
    before = output_change(wanted, all_outputs(made, judge))
    start = before
    for name, chosen, change in changes:
        if not chosen:
            continue
        tried = clone(made)
        count, more = change(Pair.of(reference, tried, seen, settings.rows), context.seed)
        notes += more
        if not count:
            continue
        _round_biases(made, tried, seen)
        after = output_change(wanted, all_outputs(tried, judge))
        if after < before:
            made, before = tried, after
        else:
            notes.append(
                f"{name}: undone, the outputs' error on rows held back went from {before:.3g} to "
                f"{after:.3g} of their variance"
            )
    notes.append(
        f"the outputs' error on {held.count} rows held back went from {start:.3g} to {before:.3g} "
        "of their variance"
    )
    return Result(made, notes=tuple(notes))


def _round_biases(before: ModelProto, after: ModelProto, rows: Rows) -> None:
    """Round the float biases that changed, in place."""
    old, new = initializers(before), initializers(after)
    floats = [offset.tensor for offset in offsets(after) if offset.scale is None]
    round_biases(after, [name for name in floats if new[name] != old[name]], rows)


def _split(inputs: Rows, rows: int) -> tuple[Rows, Rows]:
    """Split calibration rows into those that repair and those that judge.

    Raises:
        TechniqueError: there is only one row.
    """
    total = min(rows, inputs.count)
    if total < 2:
        raise TechniqueError("repair needs at least 2 calibration rows, got 1")
    held = np.arange(total) % min(_HELD_BACK, total) == 0
    return inputs.take(np.flatnonzero(~held)), inputs.take(np.flatnonzero(held))
