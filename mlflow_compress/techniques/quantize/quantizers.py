"""Calls ``onnxruntime.quantization``: with rows, with ranges of our own, and without its talk."""

import logging
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import onnx
import onnxruntime as ort
from onnx import ModelProto
from onnxruntime.quantization import (
    CalibrationMethod,
    QuantFormat,
    QuantType,
    calibrate,
    quantize_dynamic,
    quantize_static,
    registry,
)

from mlflow_compress.base.ort_text import ort_line
from mlflow_compress.errors import TechniqueError
from mlflow_compress.packed.ort_errors import ORT_ERRORS
from mlflow_compress.techniques.graph.walk import clone
from mlflow_compress.techniques.quantize.calibration import Reader, fine_histograms
from mlflow_compress.techniques.quantize.settings import QuantizeSettings

__all__ = ["TAKEN", "dynamic", "static"]

_METHODS = {
    "minmax": CalibrationMethod.MinMax,
    "percentile": CalibrationMethod.Percentile,
    "entropy": CalibrationMethod.Entropy,
}
TAKEN = registry.QDQRegistry.keys() | registry.QLinearOpsRegistry.keys()
"""What onnxruntime quantizes, weights or not."""

_FAILURES: tuple[type[Exception], ...] = (
    *ORT_ERRORS,
    RuntimeError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    AssertionError,
)
"""onnxruntime's tools raise whatever they meet."""


def static(
    model: ModelProto, rows: Reader, settings: QuantizeSettings, folder: Path | None
) -> ModelProto:
    """Return a prepared model with its weights and activations in 8 bits.

    Args:
        model: the model.
        rows: calibration rows, from which the activations' ranges are read.
        settings: how; ``exclude`` names the nodes that stay in float.
        folder: where it may write.

    Raises:
        TechniqueError: the tool fails.
    """
    options: dict[str, Any] = {}
    if settings.method == "minmax":
        options["CalibMaxIntermediateOutputs"] = rows.chunk
    if settings.method == "percentile":
        options["CalibPercentile"] = settings.percentile
    with (
        tempfile.TemporaryDirectory(dir=folder) as place,
        _quiet(),
        fine_histograms(settings.method),
    ):
        path = Path(place, "quantized.onnx")
        _quantized(model, path, rows, settings, options)
        return onnx.load(path)


def dynamic(
    model: ModelProto,
    left: Sequence[str],
    folder: Path | None,
    *,
    per_channel: bool,
    reduce_range: bool,
) -> ModelProto:
    """Return a prepared model with the weights of MatMul and Gemm in 8 bits.

    Args:
        model: the model.
        left: names of the nodes that stay in float.
        folder: where it may write.
        per_channel: one scale per output channel.
        reduce_range: 7-bit weights.

    Raises:
        TechniqueError: the tool fails.
    """
    with tempfile.TemporaryDirectory(dir=folder) as place, _quiet():
        path = Path(place, "quantized.onnx")
        try:
            quantize_dynamic(
                model,
                path,
                op_types_to_quantize=["MatMul"],
                nodes_to_exclude=list(left),
                per_channel=per_channel,
                reduce_range=reduce_range,
                weight_type=QuantType.QInt8,
                extra_options={"MatMulConstBOnly": True},
            )
        except _FAILURES as error:
            raise _failed(error) from error
        return onnx.load(path)


def _quantized(
    model: ModelProto,
    path: Path,
    reader: Reader,
    settings: QuantizeSettings,
    options: dict[str, Any],
) -> None:
    for adjust in (True, False):
        if not adjust:
            # its adjustment of scales for biases near zero trips over per-channel scales
            options["QDQDisableWeightAdjustForInt32Bias"] = True
            reader.rewind()
        try:
            quantize_static(
                clone(model),  # it moves the weights of the model it is given into files
                path,
                reader,
                quant_format=QuantFormat.QDQ,
                per_channel=settings.per_channel,
                reduce_range=settings.reduce_range,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
                nodes_to_exclude=list(settings.exclude),
                calibrate_method=_METHODS[settings.method],
                extra_options=options,
            )
        except _FAILURES as error:
            if adjust and "truth value of an array" in str(error):
                continue
            raise _failed(error) from error
        return


def _failed(error: Exception) -> TechniqueError:
    told = ort_line(error) or type(error).__name__
    return TechniqueError(f"onnxruntime.quantization fails on this model: {told}")


_lock = threading.Lock()
_depth = 0


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep onnxruntime.quantization's advice and prints from the user's terminal.

    The advice goes to the root logger: only records logged on it directly are held back, and a
    handler is lent to it, because ``logging.warning`` would install one for good when it has none.
    The prints are taken from the one module that makes them, so that nobody else's are lost.
    """
    global _depth
    root, lent = logging.getLogger(), logging.NullHandler()
    with _lock:
        _depth += 1
        root.disabled = True
        root.addHandler(lent)
        ort.set_default_logger_severity(4)
        vars(calibrate)["print"] = _no_print
    try:
        yield
    finally:
        with _lock:
            _depth -= 1
            root.disabled = _depth > 0
            root.removeHandler(lent)
            if not _depth:
                del vars(calibrate)["print"]
                ort.set_default_logger_severity(2)


def _no_print(*values: object, **options: object) -> None:
    """Print nothing."""
