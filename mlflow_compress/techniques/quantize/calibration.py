"""Feeds calibration rows to ``onnxruntime.quantization``, which holds all that a batch gives."""

import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import islice
from typing import Any

import numpy as np
from onnx import ModelProto
from onnxruntime.quantization import CalibrationDataReader, calibrate, quantize_static

from mlflow_compress.rows import ROOM, bytes_of_values
from mlflow_compress.techniques.graph.running import as_rows, batches
from mlflow_compress.techniques.numeric.kl_range import kl_range

__all__ = ["Reader", "fine_histograms"]

_BINS, _LEVELS = 2048, 256
"""Bins of the histograms that the entropy method looks at, and to how many levels they go."""

_AT_ONCE = 32
"""Rows per batch, where there is room for all that the model computes of them."""

_ONE_AT_A_TIME = threading.Lock()

_HELD = 1 << 28
"""Bytes of activations that histograms are made of at a time."""


class Reader(CalibrationDataReader):
    """Feeds calibration rows to onnxruntime's calibrators, which hold all that a batch gives."""

    def __init__(self, model: ModelProto, inputs: Mapping[str, np.ndarray], rows: int) -> None:
        given = as_rows(model, inputs)
        room = sum(bytes_of_values(model, given).values())
        size = max(1, min(_AT_ONCE, ROOM // max(1, room)))
        self.held = max(1, _HELD // max(1, room * given.per_call(size)))
        self._make = lambda: batches(model, given, size=size, rows=rows)
        self._left = self._make()

    def get_next(self) -> dict[str, np.ndarray] | None:
        """Return the next batch, None at the end."""
        return next(self._left, None)

    def rewind(self) -> None:
        """Begin again with the first batch."""
        self._left = self._make()

    @property
    def chunk(self) -> int:
        """How many batches onnxruntime may hold at a time.

        It finds "no data" when the batches are a whole number of such chunks, so they never are.
        """
        count = sum(1 for _ in self._make())
        return next(size for size in range(4, count + 5) if count % size)

    def parts(self) -> Iterator["_Part"]:
        """Yield readers of so many batches that there is room for all that they give."""
        while (first := self.get_next()) is not None:
            yield _Part([first, *islice(iter(self.get_next, None), self.held - 1)])


class _Part(CalibrationDataReader):
    """Feeds some batches."""

    def __init__(self, fed: list[dict[str, np.ndarray]]) -> None:
        self._left = iter(fed)

    def get_next(self) -> dict[str, np.ndarray] | None:
        """Return the next batch, None at the end."""
        return next(self._left, None)


@contextmanager
def fine_histograms(method: str) -> Iterator[None]:
    """Let the search for the range with the least KL divergence choose among many.

    ``quantize_static`` hands no number of bins on, and by default there are as many as levels: the
    whole range is then the only candidate. With more, onnxruntime takes seconds per activation.
    Batches of different shapes, the last one's included, are flattened for its histograms, which
    it makes of all batches at once: here of as many as there is room for. One thread at a time:
    what is put back must be what was there.
    """
    with _ONE_AT_A_TIME:
        yield from _patched(method)


def _patched(method: str) -> Iterator[None]:
    module, kind = vars(sys.modules[quantize_static.__module__]), calibrate.HistogramCollector
    create, search = module["create_calibrator"], kind.get_entropy_threshold
    collect, whole = kind.collect, calibrate.HistogramCalibrater
    collect_data = whole.collect_data

    def collect_parts(self: Any, reader: Reader) -> None:
        for part in reader.parts():
            collect_data(self, part)

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

    kind.collect, whole.collect_data = collect_flat, collect_parts
    if method == "entropy":
        module["create_calibrator"], kind.get_entropy_threshold = create_finer, threshold
    try:
        yield
    finally:
        module["create_calibrator"], kind.get_entropy_threshold = create, search
        kind.collect, whole.collect_data = collect, collect_data


def _finite(values: np.ndarray) -> np.ndarray:
    """Return what a histogram can be made of: nodes that stay in float may give other values."""
    values = values.astype(np.float32)
    usable = np.abs(values) < np.finfo(np.float32).max / 2
    return np.where(usable & (np.abs(values) > np.finfo(np.float32).tiny), values, 0)
