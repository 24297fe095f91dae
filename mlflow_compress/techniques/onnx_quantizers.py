"""Calls ``onnxruntime.quantization``: with rows, with ranges of our own, and without its talk."""

import logging
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from onnx import ModelProto
from onnxruntime.quantization import (
    CalibrationDataReader,
    CalibrationMethod,
    QuantFormat,
    QuantType,
    calibrate,
    quantize_dynamic,
    quantize_static,
    registry,
)

from mlflow_compress.errors import TechniqueError
from mlflow_compress.techniques.dynamic import DynamicSettings
from mlflow_compress.techniques.kl_range import kl_range
from mlflow_compress.techniques.onnx_graph import clone
from mlflow_compress.techniques.onnx_run import ORT_ERRORS, batches
from mlflow_compress.techniques.quantize import QuantizeSettings

__all__ = ["TAKEN", "Reader", "dynamic", "static"]

_METHODS = {
    "minmax": CalibrationMethod.MinMax,
    "percentile": CalibrationMethod.Percentile,
    "entropy": CalibrationMethod.Entropy,
}
_BINS, _LEVELS = 2048, 256
"""Bins of the histograms that the entropy method looks at, and to how many levels they go."""

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
    model: ModelProto, rows: "Reader", settings: QuantizeSettings, folder: Path | None
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
    with tempfile.TemporaryDirectory(dir=folder) as place, _quiet(), _kl_ranges(settings.method):
        path = Path(place, "quantized.onnx")
        _quantized(model, path, rows, settings, options)
        return onnx.load(path)


def dynamic(
    model: ModelProto, settings: DynamicSettings, left: Sequence[str], folder: Path | None
) -> ModelProto:
    """Return a prepared model with the weights of MatMul and Gemm in 8 bits.

    Args:
        model: the model.
        settings: how.
        left: names of the nodes that stay in float.
        folder: where it may write.

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
                per_channel=settings.per_channel,
                reduce_range=settings.reduce_range,
                weight_type=QuantType.QInt8,
                extra_options={"MatMulConstBOnly": True},
            )
        except _FAILURES as error:
            raise _failed(error) from error
        return onnx.load(path)


class Reader(CalibrationDataReader):
    """Feeds calibration rows to onnxruntime's calibrators."""

    def __init__(self, model: ModelProto, inputs: Mapping[str, np.ndarray], rows: int) -> None:
        self._make = lambda: batches(model, inputs, rows=rows)
        self._left = self._make()

    def get_next(self) -> dict[str, np.ndarray] | None:
        """Return the next batch, None after the last."""
        return next(self._left, None)

    @property
    def chunk(self) -> int:
        """How many batches onnxruntime may hold at a time.

        It finds "no data" when the batches are a whole number of such chunks, so they never are.
        """
        count = sum(1 for _ in self._make())
        return next(size for size in range(4, count + 5) if count % size)

    def rewind(self) -> None:
        """Begin again with the first batch."""
        self._left = self._make()


@contextmanager
def _kl_ranges(method: str) -> Iterator[None]:
    """Let the search for the range with the least KL divergence choose among many.

    ``quantize_static`` hands no number of bins on, and by default there are as many as levels: the
    whole range is then the only candidate. With more, onnxruntime takes seconds per activation.
    Batches of different shapes, the last one's included, are flattened for its histograms.
    """
    module, kind = vars(sys.modules[quantize_static.__module__]), calibrate.HistogramCollector
    create, search = module["create_calibrator"], kind.get_entropy_threshold
    collect = kind.collect

    def create_finer(*args: Any, **options: Any) -> Any:
        extra = {"num_bins": _BINS} | dict(options.get("extra_options") or {})
        return create(*args, **(options | {"extra_options": extra}))

    def threshold(_: Any, histogram: Any, __: int) -> Any:
        counts, edges, low, high = histogram[:4]
        width, middle = kl_range(counts, _LEVELS), len(counts) // 2
        ends = edges[middle - width], edges[min(middle + width + 1, len(counts))]
        return max(ends[0], low), min(ends[1], high)

    def collect_flat(self: Any, values: Mapping[str, list[np.ndarray]]) -> Any:
        flat = {n: [_finite(np.concatenate([a.ravel() for a in parts]))] for n, parts in
                values.items()}  # fmt: skip
        return collect(self, flat)

    kind.collect = collect_flat
    if method == "entropy":
        module["create_calibrator"], kind.get_entropy_threshold = create_finer, threshold
    try:
        yield
    finally:
        module["create_calibrator"], kind.get_entropy_threshold = create, search
        kind.collect = collect


def _finite(values: np.ndarray) -> np.ndarray:
    """Return what a histogram can be made of: nodes that stay in float may give other values."""
    values = values.astype(np.float32)
    usable = np.abs(values) < np.finfo(np.float32).max / 2
    return np.where(usable & (np.abs(values) > np.finfo(np.float32).tiny), values, 0)


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
    first = (str(error).strip() or type(error).__name__).splitlines()[0]
    return TechniqueError(f"onnxruntime.quantization fails on this model: {first}")


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
