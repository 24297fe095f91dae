"""The codec in numpy, for where there is no C: the same names and the same bytes as ``in_c``."""

import logging
import os
import threading
import zlib

import numpy as np
import numpy.typing as npt

from mlflow_compress.errors import PackedFormatError
from mlflow_compress.packed.codec import arrays, clusters, numpy_codec, numpy_context, tables
from mlflow_compress.packed.codec import streams as portable_stream
from mlflow_compress.packed.codec.arrays import Items
from mlflow_compress.packed.codec.tables import MAX_LENGTH, Counts, Lengths

__all__ = [
    "assign_rows",
    "code_lengths",
    "crc32",
    "decode",
    "distinct",
    "divide",
    "encode_context",
    "encode_lanes",
    "gaps",
    "histogram",
    "pair_histogram",
    "portable_levels",
    "portable_scatter",
    "portable_segments",
    "several",
    "split",
    "train_rows",
    "translate",
    "write_lengths",
]

VARIABLE = "MLFLOW_COMPRESS_BACKEND"
Bytes = npt.NDArray[np.uint8]

_SAMPLE = 1 << 16
_log = logging.getLogger(__name__)
_said = threading.Lock()

histogram = numpy_codec.histogram
several = numpy_codec.several
gaps = numpy_codec.gaps
split = numpy_codec.split
write_lengths = tables.write_lengths


def _say_once() -> None:
    """Say at first use that the slow backend runs, unless it was asked for."""
    if os.environ.get(VARIABLE) != "numpy" and _said.acquire(blocking=False):
        _log.warning("the C extension was not built: packing runs on numpy, about 20 times slower")


def crc32(data: bytes | memoryview) -> int:
    """Zlib's crc32."""
    return zlib.crc32(data)


def decode(payload: bytes | memoryview, out: Bytes, width: int, what: str) -> int:
    """See :func:`~.in_c.decode`."""
    _say_once()
    out[:] = arrays.decode(payload, len(out) // width, width, what).view(np.uint8)
    return zlib.crc32(out.data)


def portable_segments(
    stream: Bytes, starts: Items, tree: Bytes, values: Items, out: Items, what: str
) -> None:
    """See :func:`~.in_c.portable_segments`."""
    _say_once()
    places = portable_stream.decode_segments(
        stream, starts.astype(np.int64), tree, len(values), len(out), what
    )
    np.take(values, places, out=out)


def portable_levels(bits: Bytes, values: Items, limit: int, out: Items, what: str) -> None:
    """See :func:`~.in_c.portable_levels`."""
    ranks = portable_stream.decode_levels(bits, len(values), len(out), limit, what)
    np.take(values, ranks, out=out)


def portable_scatter(moves: Bytes, values: Items, background: Items, out: Items, what: str) -> None:
    """See :func:`~.in_c.portable_scatter`."""
    places = np.cumsum(moves, dtype=np.int64) - 1
    if not moves.all() or (len(places) and places[-1] >= len(out)):
        raise PackedFormatError(f"tensor '{what}': gaps do not fit the array")
    out[:] = background
    out[places] = values


def code_lengths(counts: Counts, limit: int = MAX_LENGTH) -> Lengths:
    """See :func:`tables.code_lengths`."""
    return tables.code_lengths(counts, limit)


def encode_lanes(
    symbols: Bytes, lengths: Lengths, per_lane: int, layout: int, bits: int
) -> tuple[npt.NDArray[np.int64], bytes]:
    """See :func:`numpy_codec.encode_lanes`."""
    del bits  # C makes room by it
    return numpy_codec.encode_lanes(symbols, lengths, per_lane, layout)


def encode_context(
    symbols: Bytes, lengths: Bytes, classes: Bytes, per_lane: int, bits: int
) -> tuple[npt.NDArray[np.int64], bytes]:
    """See :func:`numpy_context.encode`."""
    del bits
    return numpy_context.encode(symbols, lengths, classes, per_lane)


def train_rows(symbols: Bytes, row: int, step: int) -> npt.NDArray[np.generic]:
    """See :func:`~.in_c.train_rows`."""
    return clusters.train(_row_histograms(symbols, row, step, 1024))


def assign_rows(
    symbols: Bytes, row: int, step: int, costs: npt.NDArray[np.generic]
) -> tuple[Bytes, Counts]:
    """See :func:`~.in_c.assign_rows`."""
    return clusters.assign(
        _row_histograms(symbols, row, step), costs.astype(np.float64, copy=False)
    )


def _row_histograms(
    symbols: Bytes, row: int, step: int, most: int | None = None
) -> npt.NDArray[np.uint32]:
    table = symbols.reshape(-1, row)[::step, :most]
    keys = (np.arange(len(table), dtype=np.int64)[:, None] << 8 | table).reshape(-1)
    sums = np.bincount(keys, minlength=len(table) << 8).reshape(-1, 256)
    return sums.astype(np.uint32)


def pair_histogram(symbols: Bytes) -> npt.NDArray[np.uint32]:
    """See :func:`~.in_c.pair_histogram`."""
    before = np.zeros(len(symbols), np.intp)
    before[1:] = symbols[:-1]
    times = np.bincount((before << 8) + symbols, minlength=1 << 16)
    return times.reshape(256, 256).astype(np.uint32)


def translate(symbols: Bytes, table: Bytes) -> Bytes:
    """See :func:`~.in_c.translate`."""
    return table[symbols]


def distinct(items: Items, most: int) -> tuple[Items, npt.NDArray[np.uint16], Counts] | None:
    """See :func:`~.in_c.distinct`."""
    if len(np.unique(items[:_SAMPLE])) > most:
        return None
    values, inverse, times = np.unique(items, return_inverse=True, return_counts=True)
    if len(values) > most:
        return None
    return values, inverse.astype(np.uint16), times.astype(np.int64)


def divide(indices: npt.NDArray[np.uint16], sizes: Counts) -> tuple[Bytes, list[Bytes]]:
    """See :func:`~.in_c.divide`."""
    del sizes
    high, low = (indices >> 8).astype(np.uint8), indices.astype(np.uint8)
    return high, [low[high == part] for part in range(16)]
