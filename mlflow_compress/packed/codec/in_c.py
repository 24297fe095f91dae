"""The codec in C: what is under ``c/``, with arrays in and out."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import numpy.typing as npt

from mlflow_compress.errors import PackedFormatError
from mlflow_compress.packed.codec import _huffman as _c
from mlflow_compress.packed.codec import clusters, in_numpy
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

Bytes = npt.NDArray[np.uint8]

_local = threading.local()


def crc32(data: bytes | memoryview) -> int:
    """Zlib's crc32."""
    return _c.crc32(data)


def decode(payload: bytes | memoryview, out: Bytes, width: int, what: str) -> int:
    """Decode a payload into ``out`` (its bytes); return the crc32 of ``out``.

    Raises:
        PackedFormatError: if the payload breaks the format.
    """
    size = _c.WORK_MIN
    while True:
        work = getattr(_local, "work", None)
        if work is None or len(work) < size:
            work = _local.work = np.empty(size, np.uint8)
        try:
            return int(_c.decode(payload, out, width, work))
        except _c.Error as error:
            code, text = error.args
            if code != _c.WORKSPACE or len(work) >= _c.WORK_MAX:
                raise PackedFormatError(f"{what}: {text}") from None
            size = 4 * len(work)


def portable_segments(
    stream: Bytes, starts: Items, tree: Bytes, values: Items, out: Items, what: str
) -> None:
    """Decode ``len(out)`` items of a portable stream; see :func:`portable_stream.decode_segments`.

    Args:
        stream: uint8 [segments, bytes per segment].
        starts: uint8 or uint16, the tree node at the start of each segment.
        tree: the tree's bits, packed.
        values: what each code but the last stands for.
        out: filled with items of the same type.
        what: the tensor's name, for messages.

    Raises:
        PackedFormatError: if they contradict each other.
    """
    work = _workspace(_c.PORTABLE_WORK + 64)
    with _refusing(what):
        _c.portable_segments(
            stream, stream.shape[1], starts, starts.itemsize, tree, values, out.itemsize, out, work
        )


def portable_levels(bits: Bytes, values: Items, limit: int, out: Items, what: str) -> None:
    """Decode ``len(out)`` items coded in levels; see :func:`portable_stream.decode_levels`.

    Raises:
        PackedFormatError: if the bits are not one tree and so many symbols.
    """
    if len(out) > 8 * bits.size:  # which is refused there, without room for so many
        in_numpy.portable_levels(bits, values, limit, out, what)
        return
    work = np.empty(8192 + 6 * len(out) + 64, np.uint8)
    with _refusing(what):
        _c.portable_levels(bits, values, limit, out.itemsize, out, work)


def portable_scatter(moves: Bytes, values: Items, background: Items, out: Items, what: str) -> None:
    """Fill ``out`` with the background and store values, going on by each move.

    Raises:
        PackedFormatError: if a move is 0 or leads outside.
    """
    with _refusing(what):
        _c.portable_scatter(moves, values, background, out.itemsize, out)


def _workspace(size: int) -> Bytes:
    """This thread's workspace, of at least ``size`` bytes."""
    work: Bytes | None = getattr(_local, "work", None)
    if work is None or len(work) < size:
        work = _local.work = np.empty(size, np.uint8)
    return work


@contextmanager
def _refusing(what: str) -> Iterator[None]:
    try:
        yield
    except _c.Error as error:
        raise PackedFormatError(f"tensor '{what}': {error.args[1]}") from None


def histogram(symbols: Bytes) -> Counts:
    """How often each byte value occurs."""
    counts = np.empty(256, np.uint64)
    _c.histogram(symbols, counts)
    return counts.view(np.int64)


def code_lengths(counts: Counts, limit: int = MAX_LENGTH) -> Lengths:
    """Optimal code lengths of at most ``limit`` bits; see :func:`tables.code_lengths`."""
    lengths = np.empty(256, np.uint8)
    _c.code_lengths(counts, limit, lengths)
    return lengths


def encode_lanes(
    symbols: Bytes, lengths: Lengths, per_lane: int, layout: int, bits: int
) -> tuple[npt.NDArray[np.int64], bytes]:
    """Write symbols as Huffman lanes; see :func:`numpy_codec.encode_lanes`.

    ``bits`` is the length of all codes together.
    """
    return _encode(symbols, lengths, None, per_lane, layout, bits)


def encode_context(
    symbols: Bytes, lengths: Bytes, classes: Bytes, per_lane: int, bits: int
) -> tuple[npt.NDArray[np.int64], bytes]:
    """Write the lanes of kind 3; see :func:`numpy_context.encode`."""
    return _encode(symbols, lengths, classes, per_lane, 1, bits)


def _encode(
    symbols: Bytes,
    lengths: Bytes,
    classes: Bytes | None,
    per_lane: int,
    layout: int,
    bits: int,
) -> tuple[npt.NDArray[np.int64], bytes]:
    lanes = 8 * -(-len(symbols) // (8 * per_lane)) if per_lane else 1
    lane_bytes = np.empty(lanes, np.uint32)
    data = _c.encode(symbols, lengths, classes, per_lane, layout, bits, lane_bytes)
    return lane_bytes.astype(np.int64), data


def write_lengths(lengths: Lengths) -> bytes:
    """Serialise code lengths; see :func:`tables.write_lengths`."""
    return _c.write_lengths(lengths)


def train_rows(symbols: Bytes, row: int, step: int) -> npt.NDArray[np.generic]:
    """Find four clusters of rows of ``row`` symbols.

    Looks at the first 1,024 symbols of every ``step``-th row; there are at most 256 of these.

    Returns:
        What :func:`assign_rows` wants to know; see :func:`clusters.train`.
    """
    costs = np.empty(256, np.uint64)
    _c.train_rows(symbols, row, step, costs)
    return costs


def assign_rows(
    symbols: Bytes, row: int, step: int, costs: npt.NDArray[np.generic]
) -> tuple[Bytes, Counts]:
    """Cluster of every ``step``-th row, and the clusters' histograms: shape (4, 256)."""
    ids = np.empty(-(-len(symbols) // (row * step)), np.uint8)
    sums: npt.NDArray[np.uint64] = np.empty((clusters.CLUSTERS, 256), np.uint64)
    _c.assign_rows(symbols, row, step, costs, ids, sums.reshape(-1))
    return ids, sums.view(np.int64)


def pair_histogram(symbols: Bytes) -> npt.NDArray[np.uint32]:
    """How often each symbol follows each other one (0 before the first): shape (256, 256)."""
    counts: npt.NDArray[np.uint32] = np.empty((256, 256), np.uint32)
    _c.pairs(symbols, counts)
    return counts


def translate(symbols: Bytes, table: Bytes) -> Bytes:
    """``table[symbols]`` for a table of 256 bytes."""
    out = np.empty(len(symbols), np.uint8)
    _c.translate(symbols, table, out)
    return out


def several(symbols: Bytes, per_byte: int) -> Bytes:
    """Pack several small symbols into each byte (``docs/format.md``, section 4, kind 4)."""
    out = np.empty(-(-len(symbols) // per_byte), np.uint8)
    _c.pack(symbols, per_byte, out)
    return out


def distinct(items: Items, most: int) -> tuple[Items, npt.NDArray[np.uint16], Counts] | None:
    """The sorted distinct items, each item's index, and how often each occurs.

    None if there are more than ``most``.
    """
    found, times = np.empty(most, np.uint64), np.empty(most, np.uint64)
    indices = np.empty(len(items), np.uint16)
    count = _c.distinct(items, items.itemsize, most, found, indices, times)
    if count > most:
        return None
    return found[:count].astype(items.dtype), indices, times[:count].view(np.int64)


def divide(indices: npt.NDArray[np.uint16], sizes: Counts) -> tuple[Bytes, list[Bytes]]:
    """High parts of 12-bit indices, and the low bytes of each part in order.

    Args:
        indices: below 4096.
        sizes: how many indices each of 16 high parts has.
    """
    high, low = np.empty(len(indices), np.uint8), np.empty(len(indices), np.uint8)
    _c.divide(indices, sizes, high, low)
    return high, np.split(low, np.cumsum(sizes)[:-1])


def gaps(items: Items, background: int) -> tuple[Bytes, Items]:
    """Cut items into gaps and values (``docs/format.md``, section 4, kind 6)."""
    steps, values = np.empty(len(items), np.uint8), np.empty(len(items), items.dtype)
    step_count, value_count = _c.gaps(
        items, items.itemsize, background, steps, values.view(np.uint8)
    )
    return steps[:step_count], values[:value_count]


def split(items: Items, rotate: bool) -> npt.NDArray[np.uint8]:
    """Byte planes of items of several bytes, lowest first: shape (width, n)."""
    planes = np.empty((items.itemsize, len(items)), np.uint8)
    _c.split(items, items.itemsize, rotate, planes.reshape(-1))
    return planes
