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
from mlflow_compress.rows.room import ROOM, bytes_of_values, most_rows

__all__ = [
    "ROOM",
    "Array",
    "Call",
    "Collected",
    "Declared",
    "Placed",
    "Ragged",
    "RowlessError",
    "Rows",
    "as_array",
    "bytes_of_values",
    "declared_inputs",
    "declared_outputs",
    "likely_count",
    "most_rows",
    "named_axes",
    "place",
    "row_axes",
    "rows_of",
    "shown",
    "unsaid",
]
