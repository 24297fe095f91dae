"""Runs an ONNX model on calibration inputs, in batches, for techniques that look at activations."""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import onnxruntime as ort
from onnx import ModelProto
from onnxruntime.capi import onnxruntime_pybind11_state

from mlflow_compress.errors import TechniqueError

__all__ = ["batches", "check_calibration", "fixed_batch", "session"]

ORT_ERRORS: tuple[type[Exception], ...] = tuple(
    kind
    for kind in vars(onnxruntime_pybind11_state).values()
    if isinstance(kind, type) and issubclass(kind, Exception)
)
"""What onnxruntime raises; its exceptions have no common base class."""


def session(model: ModelProto, *, optimized: bool = True) -> ort.InferenceSession:
    """Open a single-threaded, quiet session.

    Raises:
        TechniqueError: onnxruntime does not take the model.
    """
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    if not optimized:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        return ort.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
    except ORT_ERRORS as error:
        raise TechniqueError(f"onnxruntime does not load the model: {_line(error)}") from error


def check_calibration(
    model: ModelProto, calibration: Mapping[str, np.ndarray] | None
) -> Mapping[str, np.ndarray]:
    """Return the calibration inputs that the model takes.

    Raises:
        TechniqueError: there are none, or one that the model needs is missing.
    """
    if not calibration:
        raise TechniqueError("needs calibration inputs, and there are none (data.calibration)")
    wanted = [value.name for value in model.graph.input]
    missing = [name for name in wanted if name not in calibration]
    if missing:
        raise TechniqueError(
            f"the calibration data lack the model's input {missing[0]!r}; "
            f"they have {', '.join(calibration)}"
        )
    return {name: calibration[name] for name in wanted}


def fixed_batch(model: ModelProto) -> int | None:
    """Return the batch size that the model's inputs are fixed to, or None when it is open."""
    for value in model.graph.input:
        dims = value.type.tensor_type.shape.dim
        if dims and dims[0].HasField("dim_value"):
            return int(dims[0].dim_value)
    return None


def batches(
    model: ModelProto, inputs: Mapping[str, np.ndarray], *, size: int = 32, rows: int | None = None
) -> Iterator[dict[str, np.ndarray]]:
    """Yield the inputs in batches that the model can take; rows that fill no batch are left out.

    Inputs whose arrays have a different number of rows than the first are given whole each time.
    """
    names: Sequence[str] = list(inputs)
    total = len(inputs[names[0]])
    step = fixed_batch(model) or size
    stop = min(total, rows) if rows else total
    last = stop if fixed_batch(model) is None else max(step, stop - stop % step)
    for begin in range(0, last, step):
        yield {
            name: array[begin : min(begin + step, last)]
            if array.ndim and len(array) == total
            else array
            for name, array in inputs.items()
        }


def _line(error: Exception) -> str:
    return str(error).strip().splitlines()[0]
