"""Runs models over datasets: fixed threads, in batches, outputs concatenated."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import onnx
import onnxruntime as ort
from onnxruntime.capi import onnxruntime_pybind11_state

from mlflow_compress.errors import DataError, SourceError
from mlflow_compress.measure.data import Dataset

__all__ = ["Runnable", "fixed_batch", "open_session", "run", "session_options"]

ORT_ERRORS: tuple[type[Exception], ...] = tuple(
    kind
    for kind in vars(onnxruntime_pybind11_state).values()
    if isinstance(kind, type) and issubclass(kind, Exception)
)
"""What onnxruntime raises; its exceptions have no common base class."""

_RUN_ERRORS: tuple[type[Exception], ...] = (*ORT_ERRORS, ValueError)


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
        first = str(error).strip().splitlines()[0]
        raise SourceError(f"onnxruntime does not load the model: {first}") from error


def run(session: Runnable, dataset: Dataset, batch: int = 64) -> dict[str, np.ndarray]:
    """Run all rows and return the outputs by name, each of [rows, ...].

    A batch size that the model fixes is honoured; the last batch is then filled up by repeating
    its last row, and the extra outputs are cut off.

    Raises:
        DataError: onnxruntime refuses the inputs, or an output has no axis of rows.
    """
    step = fixed_batch(session) or batch
    names = [output.name for output in session.get_outputs()]
    parts: list[list[np.ndarray]] = []
    for begin in range(0, dataset.rows, step):
        feed = {k: a[begin : begin + step] for k, a in dataset.inputs.items()}
        held = min(step, dataset.rows - begin)
        if held < step and fixed_batch(session):
            feed = {k: _filled(array, step) for k, array in feed.items()}
        outputs = _run_batch(session, names, feed, dataset)
        for name, output in zip(names, outputs, strict=True):
            if output.ndim == 0 or len(output) < held or (len(output) > held and held == step):
                raise DataError(
                    f"output {name!r} has shape {list(output.shape)} for {held} rows: "
                    f"its first axis must be the rows"
                )
        parts.append([output[:held] for output in outputs])
    return {
        name: np.concatenate([part[index] for part in parts]) for index, name in enumerate(names)
    }


def _run_batch(
    session: Runnable, names: list[str], feed: dict[str, np.ndarray], dataset: Dataset
) -> list[np.ndarray]:
    try:
        return [np.asarray(output) for output in session.run(names, feed)]
    except _RUN_ERRORS as error:
        first = str(error).strip().splitlines()[0]
        raise DataError(f"the model does not run on data {dataset.name!r}: {first}") from error


def fixed_batch(session: Runnable) -> int | None:
    """Return the batch size that a model fixes, or None."""
    for value in session.get_inputs():
        if value.shape and isinstance(value.shape[0], int):
            return int(value.shape[0])
    return None


def _filled(array: np.ndarray, rows: int) -> np.ndarray:
    return np.concatenate([array, np.repeat(array[-1:], rows - len(array), axis=0)])
