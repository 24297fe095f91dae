"""Reads payloads: the tree of arrays of ``docs/format.md``, section 4, with numpy.

This is the fallback backend's decoder, the oracle for the C one, and what :func:`describe` uses
to say how a tensor is coded.
"""

import numpy as np
import numpy.typing as npt

from mlflow_compress.errors import PackedFormatError
from mlflow_compress.packed.codec import numpy_codec, numpy_context
from mlflow_compress.packed.codec.tables import read_lengths
from mlflow_compress.packed.format import Cursor

RAW, CONSTANT, HUFFMAN, CONTEXT, PACKED, PLANES, SPARSE, ROWS, CODEBOOK, WIDE = range(10)
LEVELS = (0, 0, 0, 0, 1, 2, 3, 4, 5, 5)
NAMES = (
    "raw",
    "constant",
    "huffman",
    "context",
    "packed",
    "planes",
    "gaps",
    "rows",
    "codebook",
    "codebook",
)
MAX_LANE = 8192
ESCAPE = 255

Items = npt.NDArray[np.unsignedinteger]


def items_of(data: bytes | memoryview | npt.NDArray[np.uint8], width: int) -> Items:
    """See bytes as unsigned little-endian items of ``width`` bytes."""
    return np.frombuffer(data, f"<u{width}")


def decode(payload: bytes | memoryview, count: int, width: int, what: str) -> Items:
    """Decode a payload with numpy.

    Args:
        payload: the whole payload.
        count: items it must hold.
        width: bytes per item: 1, 2, 4 or 8.
        what: the tensor, for messages.

    Raises:
        PackedFormatError: if the payload breaks the format.
    """
    reader = _Reader(Cursor(payload, what))
    out = reader.array(count, width, 6)
    if reader.cursor.at != len(payload):
        raise PackedFormatError(f"{what}: {len(payload) - reader.cursor.at} bytes left over")
    return out


def summary(
    payload: bytes | memoryview, count: int, width: int, what: str
) -> tuple[list[int], int]:
    """The kinds of a payload's arrays, outermost first, and how many of its bytes are data.

    Data are raw items, codebooks and Huffman lanes; the rest are tables and lengths. Of a payload
    that :func:`decode` takes, it decodes only what says how the rest is laid out.
    """
    reader = _Reader(Cursor(payload, what), skims=True)
    reader.array(count, width, 6)
    return reader.kinds, reader.data_bytes


class _Reader:
    """Recursive descent over one payload. Levels fall strictly, so recursion is bounded."""

    def __init__(self, cursor: Cursor, skims: bool = False) -> None:
        self.cursor, self.kinds, self.data_bytes = cursor, list[int](), 0
        self.skims = skims  # coded symbols are passed over, and read as 0

    def layout(self, count: int, width: int, below: int) -> Items:
        """Decode an array that says how what follows is laid out, also when skimming."""
        skims, self.skims = self.skims, False
        try:
            return self.array(count, width, below)
        finally:
            self.skims = skims

    def array(self, count: int, width: int, below: int) -> Items:
        """Decode one array whose level must be less than ``below``."""
        kind = self.cursor.byte()
        if kind >= len(LEVELS) or LEVELS[kind] >= below or (count == 0 and kind != RAW):
            raise self.error(f"array of kind {kind} is not allowed here")
        if (kind in (HUFFMAN, CONTEXT, PACKED) and width != 1) or (kind == PLANES and width == 1):
            raise self.error(f"array of kind {kind} cannot have items of {width} bytes")
        self.kinds.append(kind)
        return _READERS[kind](self, count, width)

    def error(self, text: str) -> PackedFormatError:
        return PackedFormatError(f"{self.cursor.what}: {text}")

    def raw(self, count: int, width: int) -> Items:
        self.data_bytes += count * width
        return items_of(self.cursor.take(count * width), width)

    def constant(self, count: int, width: int) -> Items:
        return np.full(count, self.raw(1, width)[0])

    def huffman(self, count: int, width: int) -> Items:
        lengths = read_lengths(self.cursor)
        shape = self.cursor.varint(2 * MAX_LANE + 1)
        per_lane, layout = shape >> 1, shape & 1
        if per_lane == 0 and (layout or count > MAX_LANE):
            raise self.error(f"one lane for {count} symbols, layout {layout}")
        lane_bytes, data = self.lanes(count, per_lane, layout)
        if self.skims:
            return np.zeros(count, np.uint8)
        return numpy_codec.decode_lanes(
            data, lane_bytes, lengths, count, per_lane, layout, self.cursor.what
        )

    def lanes(
        self, count: int, per_lane: int, layout: int
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.uint8]]:
        """Read the lanes' lengths in bytes, and the lanes."""
        if per_lane and count // (8 * per_lane) > len(self.cursor.data):
            raise self.error("more Huffman lanes than there are bytes")
        sizes, _ = numpy_codec.lane_starts(count, per_lane, layout)
        lane_bytes = self.lane_lengths(sizes, per_lane)
        self.data_bytes += int(lane_bytes.sum())
        return lane_bytes, np.frombuffer(self.cursor.take(int(lane_bytes.sum())), np.uint8)

    def lane_lengths(self, sizes: npt.NDArray[np.int64], per_lane: int) -> npt.NDArray[np.int64]:
        """Read and check the lanes' lengths in bytes, for lanes of these sizes."""
        least, bits = self.cursor.varint(12 * 8 * MAX_LANE), 0
        if per_lane:
            bits = self.cursor.byte()
        if bits > 16:
            raise self.error(f"lane lengths of {bits} bits")
        lengths = self.bits(len(sizes), bits) + least
        if np.any(lengths > (sizes * 12 + 7) // 8) or np.any(lengths < (sizes + 7) // 8):
            raise self.error("a Huffman lane has not the length that its symbols need")
        return lengths

    def bits(self, count: int, width: int) -> npt.NDArray[np.int64]:
        data = np.frombuffer(self.cursor.take((count * width + 7) // 8), np.uint8)
        bits = np.unpackbits(data, bitorder="little")
        if bits[count * width :].any():
            raise self.error("padding after the lane lengths is not 0")
        weights = 1 << np.arange(width, dtype=np.int64)
        return bits[: count * width].reshape(count, width) @ weights

    def packed(self, count: int, width: int) -> Items:
        per_byte = self.cursor.byte()
        if per_byte not in (2, 4, 8):
            raise self.error(f"{per_byte} items packed in a byte")
        data = self.array(-(-count // per_byte), 1, 1)
        bits = 8 // per_byte
        shifts = np.arange(0, 8, bits, dtype=np.uint8)
        spread = (data[:, None] >> shifts & np.uint8((1 << bits) - 1)).reshape(-1)
        if spread[count:].any():
            raise self.error("padding after packed items is not 0")
        return spread[:count]

    def planes(self, count: int, width: int) -> Items:
        transform = self.cursor.byte()
        if transform > 1:
            raise self.error(f"unknown plane transform {transform}")
        stacked = np.empty((count, width), np.uint8)
        for plane in range(width):
            stacked[:, plane] = self.array(count, 1, 2)
        items = items_of(stacked.reshape(-1), width)
        if transform:
            top = items.dtype.type(8 * width - 1)
            items = items >> items.dtype.type(1) | items << top
        return items

    def sparse(self, count: int, width: int) -> Items:
        background = self.raw(1, width)[0]
        stored = self.cursor.varint(count)
        symbols = self.cursor.varint(count)
        if symbols < stored:
            raise self.error(f"{symbols} gaps for {stored} values")
        gaps = self.layout(symbols, 1, 3)
        values = self.array(stored, width, 3)
        stores = gaps != ESCAPE
        after = np.cumsum(gaps.astype(np.int64) + stores)
        if int(stores.sum()) != stored or (symbols and after[-1] > count):
            raise self.error("gaps do not fit the array")
        out = np.full(count, background)
        out[after[stores] - 1] = values
        return out

    def rows(self, count: int, width: int) -> Items:
        length, clusters = self.cursor.varint(count), self.cursor.byte()
        if length < 1 or count % length or not 2 <= clusters <= 16:
            raise self.error(f"{count} items in rows of {length}, {clusters} clusters")
        ids = self.layout(count // length, 1, 2)
        if ids.max() >= clusters:
            raise self.error(f"row of cluster {ids.max()}, there are {clusters}")
        out = np.empty((count // length, length), f"<u{width}")
        for cluster in range(clusters):
            mine = np.flatnonzero(ids == cluster)
            out[mine] = self.array(len(mine) * length, width, 4).reshape(-1, length)
        return out.reshape(-1)

    def codebook(self, count: int, width: int) -> Items:
        size = self.cursor.varint(256)
        values = self.raw(size, width)
        indices = self.array(count, 1, 5)
        if not size or indices.max() >= size:
            raise self.error(f"codebook index {indices.max()}, there are {size} values")
        return values[indices]

    def wide(self, count: int, width: int) -> Items:
        size = self.cursor.varint(4096)
        if size <= 256:
            raise self.error(f"wide codebook of {size} values")
        values = self.raw(size, width)
        high = self.layout(count, 1, 3)
        parts = -(-size // 256)
        if high.max() >= parts:
            raise self.error(f"codebook index {int(high.max()) * 256}, there are {size} values")
        indices = high.astype(np.intp) << 8
        for part in range(parts):
            mine = high == part
            indices[mine] += self.array(int(mine.sum()), 1, 3)
        if indices.max() >= size:
            raise self.error(f"codebook index {indices.max()}, there are {size} values")
        return values[indices]

    def context(self, count: int, width: int) -> Items:
        tables, runs = self.cursor.byte(), self.cursor.byte()
        if not 2 <= tables <= 4:
            raise self.error(f"context of {tables} classes")
        pairs = np.frombuffer(self.cursor.take(2 * runs), np.uint8).reshape(-1, 2)
        classes = np.repeat(pairs[:, 0], pairs[:, 1].astype(np.intp) + 1)
        if len(classes) != 256 or classes.max() >= tables:
            raise self.error("the classes do not cover the symbols")
        lengths = np.stack([read_lengths(self.cursor) for _ in range(tables)])
        if lengths.max() > numpy_context.MAX_LENGTH:
            raise self.error(f"a code of {lengths.max()} bits in a context")
        per_lane = self.cursor.varint(MAX_LANE)
        if per_lane < 1:
            raise self.error("one lane in a context")
        lane_bytes, data = self.lanes(count, per_lane, 1)
        if self.skims:
            return np.zeros(count, np.uint8)
        return numpy_context.decode(
            data, lane_bytes, lengths, classes, count, per_lane, self.cursor.what
        )


_READERS = (
    _Reader.raw,
    _Reader.constant,
    _Reader.huffman,
    _Reader.context,
    _Reader.packed,
    _Reader.planes,
    _Reader.sparse,
    _Reader.rows,
    _Reader.codebook,
    _Reader.wide,
)
