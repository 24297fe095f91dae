"""Rows of data as a model takes and gives them: the one place that knows where the rows are."""

from mlflow_compress.rows.cut import Collected, RowlessError, row_axes, rows_of
from mlflow_compress.rows.declared import (
    Declared,
    declared_inputs,
    declared_outputs,
    likely_count,
    named_axes,
    shown,
)
from mlflow_compress.rows.feeds import Call, Rows
from mlflow_compress.rows.placing import Placed, place, unsaid
from mlflow_compress.rows.ragged import Array, Ragged, as_array

__all__ = [
    "Array",
    "Call",
    "Collected",
    "Declared",
    "Placed",
    "Ragged",
    "RowlessError",
    "Rows",
    "as_array",
    "declared_inputs",
    "declared_outputs",
    "likely_count",
    "named_axes",
    "place",
    "row_axes",
    "rows_of",
    "shown",
    "unsaid",
]
