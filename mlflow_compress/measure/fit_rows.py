"""Fits all rows of a job to its source, which takes and gives all of them in one way."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import onnx

from mlflow_compress.measure.data import Dataset
from mlflow_compress.measure.fitting import check_fits
from mlflow_compress.measure.runner import find_layout, open_session, settle
from mlflow_compress.records import InputSpec
from mlflow_compress.rows import most_rows

__all__ = ["Fitted", "fit_rows"]


@dataclass(frozen=True)
class Fitted:
    """Rows that fit a source, with the source's layout.

    Attributes:
        evaluation: rows that models are scored on.
        calibration: rows that techniques may look at; a state is an input like others there.
        train: rows that techniques may train on.
    """

    evaluation: Dataset
    calibration: Dataset | None = None
    train: Dataset | None = None


def fit_rows(
    model: onnx.ModelProto,
    evaluation: Dataset,
    calibration: Dataset | None = None,
    train: Dataset | None = None,
    *,
    specs: Mapping[str, InputSpec] | None = None,
    stream: int | None = None,
) -> Fitted:
    """Fit rows to a source, run it to see how it gives them, and let its states settle.

    Args:
        model: the source, normalised.
        evaluation: rows that models are scored on.
        calibration: rows that techniques may look at. Where an input is a state, the source runs
            on them in order, and the states that occur are given as inputs.
        train: rows that techniques may train on.
        specs: what a person says of inputs.
        stream: a state begins anew every so many rows.

    Raises:
        DataError: as :func:`check_fits`, or the source does not run on the rows.
        SourceError: onnxruntime does not load the source.
    """
    scored = check_fits(evaluation, model, specs, stream)
    session = open_session(model)
    shown = find_layout(session, scored)

    def fitted(rows: Dataset) -> Dataset:
        rows = check_fits(rows, model, specs, stream)
        layout = replace(rows.layout, batch=shown.batch, outputs=shown.outputs)
        return settle(session, _within_memory(model, replace(rows, layout=layout)))

    return Fitted(
        _within_memory(model, replace(scored, layout=shown)),
        None if calibration is None else fitted(calibration),
        None if train is None else fitted(train),
    )


def _within_memory(model: onnx.ModelProto, rows: Dataset) -> Dataset:
    """Return the rows, so many in a call at most that the model has room for what it computes."""
    return replace(rows, layout=replace(rows.layout, most=most_rows(model, rows.fed)))
