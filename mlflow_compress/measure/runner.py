"""Runs models over datasets: fixed threads, in batches or in order, outputs row by row."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import onnx
import onnxruntime as ort

from mlflow_compress.base.ort_text import ort_line
from mlflow_compress.errors import DataError, SourceError
from mlflow_compress.measure.data import Dataset
from mlflow_compress.measure.streams import InOrder
from mlflow_compress.packed.ort_errors import ORT_ERRORS, RUN_ERRORS
from mlflow_compress.records import Layout
from mlflow_compress.rows import Array, Collected, RowlessError, Rows, row_axes

__all__ = ["Runnable", "find_layout", "open_session", "run", "session_options", "settle"]


class Runnable(Protocol):
    """The part of onnxruntime.InferenceSession that measuring needs."""

    def run(self, output_names: Any, input_feed: Mapping[str, np.ndarray]) -> list[Any]:
        """Run one batch."""

    def get_inputs(self) -> list[Any]:
        """Describe the inputs (``name``, ``shape``)."""

    def get_outputs(self) -> list[Any]:
        """Describe the outputs (``name``)."""


def session_options(threads: int = 1) -> ort.SessionOptions:
    """Return options for sessions whose timing can be compared: threads fixed, none spinning."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 4
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return options


def open_session(model: onnx.ModelProto | bytes | str | Path, threads: int = 1) -> Runnable:
    """Open a model that is not packed in onnxruntime on the CPU.

    Raises:
        SourceError: onnxruntime does not take it.
    """
    if isinstance(model, onnx.ModelProto):
        model = model.SerializeToString()
    given = model if isinstance(model, bytes) else str(model)
    try:
        return ort.InferenceSession(
            given, session_options(threads), providers=["CPUExecutionProvider"]
        )
    except ORT_ERRORS as error:
        raise SourceError(f"onnxruntime does not load the model: {ort_line(error)}") from error


def find_layout(session: Runnable, dataset: Dataset) -> Layout:
    """Return the dataset's layout with each output's axis of rows, as the model shows it.

    Two calls with different numbers of rows tell it, where the model takes any number. A model
    that takes only one row, or whose outputs grow with the rows without an axis of them, is called
    with one row at a time from then on.

    Raises:
        DataError: the model does not run on the rows.
    """
    rows = dataset.fed
    layout = replace(dataset.layout, batch=dataset.layout.batch or _fixed_batch(session, rows))
    rows = Rows(rows.inputs, rows.shared, layout)
    if rows.batch is None:
        try:
            fewer, more = (_call(session, rows.example(size), dataset) for size in (2, 3))
        except DataError:
            layout = replace(layout, batch=1)
        else:
            axes = row_axes(fewer, more, (2, 3))
            grows = any(fewer[n].shape != more[n].shape for n, axis in axes.items() if axis is None)
            return replace(layout, outputs=axes, batch=1 if grows else None)
    rows = Rows(rows.inputs, rows.shared, layout)
    size = rows.batch or 1
    outputs = _call(session, rows.example(size), dataset)
    states = {output: layout.of(name).axis for name, output in layout.states.items()}
    takes_rows = any(layout.of(name).axis is not None for name in rows)
    found = {
        name: states.get(name, _axis_of(output, size) if takes_rows else None)
        for name, output in outputs.items()
    }
    return replace(layout, outputs=found)


def _fixed_batch(session: Runnable, rows: Rows) -> int | None:
    """Return the rows per call that a model declares."""
    for value in session.get_inputs():
        axis = rows.layout.of(value.name).axis if value.name in rows else None
        sizes = [] if axis is None else list(value.shape or ())[axis : axis + 1]
        if sizes and isinstance(sizes[0], int):
            return sizes[0]
    return None


def _axis_of(output: np.ndarray, size: int) -> int | None:
    """Return the axis of an output that has as many rows as the model's fixed batch."""
    along = [axis for axis, got in enumerate(output.shape) if got == size]
    return None if not along or (along[0] and (size == 1 or len(along) > 1)) else along[0]


def run(session: Runnable, dataset: Dataset, batch: int = 64) -> dict[str, Array]:
    """Run all rows and return the outputs by name, each of [rows, ...], whatever its axis of rows.

    An output whose rows differ in shape comes back as ``Ragged``. An output that has no axis of
    rows is what it is for a call of one row. A batch size that the model fixes is honoured; the
    last batch is then filled up by repeating its last row, and the extra outputs are cut off.
    Where an input is a state, the rows of each stream run in order.

    Raises:
        DataError: onnxruntime refuses the inputs.
    """
    layout = dataset.layout
    if layout.outputs is None:
        layout = find_layout(session, dataset)
    axes = {o.name: (layout.outputs or {}).get(o.name, 0) for o in session.get_outputs()}
    while True:
        try:
            return _run(session, replace(dataset, layout=layout), axes, batch)
        except RowlessError as error:
            if layout.batch is not None and layout.batch > 1 and axes[error.output] is None:
                raise DataError(f"{error}: its first axis must be the rows") from error
            axes[error.output] = None


def settle(session: Runnable, dataset: Dataset) -> Dataset:
    """Return the dataset with the states that occur as ordinary inputs, one for each row.

    Args:
        session: the model, which runs the rows of each stream in order.
        dataset: the rows; returned as it is when no input is a state.
    """
    states = dataset.layout.states
    if not states:
        return dataset
    run_states = InOrder(dataset, keep=True)
    axes = dict((dataset.layout.outputs or find_layout(session, dataset).outputs) or {})
    for call in run_states.calls(64):
        outputs = _call(session, call.feed, dataset)
        run_states.carry(call, outputs, axes)
    layout = dataset.layout
    plain = {n: replace(one, state_of="") for n, one in layout.inputs.items()}
    return replace(
        dataset,
        inputs={**dataset.inputs, **run_states.kept()},
        shared={n: array for n, array in dataset.shared.items() if n not in states},
        layout=replace(layout, inputs=plain),
        stream=None,
    )


def _run(
    session: Runnable, dataset: Dataset, axes: Mapping[str, int | None], batch: int
) -> dict[str, Array]:
    fed, collected = dataset.fed, Collected(axes)
    size = 1 if None in axes.values() else batch
    size = fed.per_call(size)
    ordered = InOrder(dataset) if dataset.layout.states else None
    for call in fed.calls(size, fill=True) if ordered is None else ordered.calls(size):
        outputs = _call(session, call.feed, dataset)
        given = fed.batch or len(call.rows)
        collected.add(call, given, outputs)
        if ordered is not None:
            ordered.carry(call, outputs, axes)
    return collected.arrays()


def _call(
    session: Runnable, feed: Mapping[str, np.ndarray], dataset: Dataset
) -> dict[str, np.ndarray]:
    names = [output.name for output in session.get_outputs()]
    try:
        outputs = [np.asarray(output) for output in session.run(names, feed)]
    except RUN_ERRORS as error:
        what = f"the model does not run on data {dataset.name!r}"
        raise DataError(f"{what}: {ort_line(error)}") from error
    return dict(zip(names, outputs, strict=True))
