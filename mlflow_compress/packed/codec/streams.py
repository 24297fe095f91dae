"""The two bit layouts of the portable profile, both directions, in numpy.

This is what the decoding functions in the file compute, written a second time: the oracle of
their tests, and what reads portable files natively. ``docs/format.md``, section 7.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from mlflow_compress.errors import PackedFormatError
from mlflow_compress.packed.codec.trees import Code, Ints, make_code, read_tree

__all__ = [
    "Levels",
    "Segments",
    "decode_levels",
    "decode_segments",
    "encode_levels",
    "encode_segments",
    "levels_bytes",
    "segments_bytes",
    "segments_transient",
]

Bytes = NDArray[np.uint8]
SEGMENT_LIMIT = 12
_CHUNK = 1 << 16


@dataclass(frozen=True)
class Segments:
    """One continuous bit stream, most significant bit first, cut into segments.

    Attributes:
        stream: uint8 [segments, bytes per segment].
        starts: uint8 or uint16 [segments], the tree node at the start of each segment.
        tree: uint8 [k, 1], the tree's bits.
        order: the symbol of each code but the last, which means "nothing follows".
        slots: how many codes can end within a nibble, rounded up to a power of two.
    """

    stream: Bytes
    starts: NDArray[np.unsignedinteger]
    tree: Bytes
    order: Ints
    slots: int


@dataclass(frozen=True)
class Levels:
    """The bits of all symbols, tree level by tree level, behind the tree's own bits.

    Attributes:
        bits: uint8 [k, 1].
        order: the symbol of each code.
        depth: the longest code in bits.
    """

    bits: Bytes
    order: Ints
    depth: int


def segments_bytes(counts: Ints, step: int) -> int:
    """Bytes of stream, starts and tree for a histogram, without encoding."""
    bits, nodes, _ = _bits((*counts.tolist(), 0), SEGMENT_LIMIT)
    segments = max(1, -(-bits // (8 * step)))
    return segments * (step + _start_width(nodes)) + -(-nodes // 4)


def levels_bytes(counts: Ints, limit: int) -> int:
    """Bytes of :class:`Levels` for a histogram, without encoding."""
    return -(-(_bits(tuple(counts.tolist()), limit)[0] + 2 * len(counts)) // 8)


def segments_transient(counts: Ints) -> tuple[int, int]:
    """Memory that decoding takes while a session is created, and the stream's bytes.

    Args:
        counts: the histogram of what is coded.
    """
    bits, nodes, slots = _bits((*counts.tolist(), 0), SEGMENT_LIMIT)
    # int32 for each byte: wide, split, place, state, path in parts, whole and turned, and its own
    # two copies; for each slot, code and mask; tables; and the codes, cut out and widened
    path, emitted = (34 + 8 * slots) * bits // 8, 8 * int(counts.sum())
    return path + emitted + (8 + 18 * slots) * 256 * nodes, bits // 8


def slots_of(counts: Ints) -> int:
    """How many codes can end within a nibble of a stream; see :class:`Segments`."""
    return _bits((*counts.tolist(), 0), SEGMENT_LIMIT)[2]


@lru_cache(maxsize=64)
def _bits(counts: tuple[int, ...], limit: int) -> tuple[int, int, int]:
    """Length of a stream, inner nodes, and how many codes can end within a nibble."""
    code, order = make_code(np.array(counts, np.int64), limit)
    bits = int((np.array(counts, np.int64)[order] * code.lengths).sum())
    return bits, code.nodes, code.slots


def _start_width(nodes: int) -> int:
    return 1 if nodes <= 256 else 2


def _column(bits: NDArray[np.uint8]) -> Bytes:
    return np.packbits(bits).reshape(-1, 1)


def _ranks_of(order: Ints) -> Ints:
    """The place of each symbol among the codes."""
    where = np.empty(len(order), np.int64)
    where[order] = np.arange(len(order))
    return where


def encode_segments(symbols: NDArray[np.integer], counts: Ints, step: int) -> Segments:
    """Code symbols as a stream cut into segments of ``step`` bytes.

    Args:
        symbols: indices into ``counts``, one dimension, at least one.
        counts: how often each occurs; none is 0.
        step: bytes per segment.
    """
    code, order = make_code(np.append(counts, 0), SEGMENT_LIMIT)
    rank_of = _ranks_of(order)
    total = int((code.lengths[rank_of[:-1]] * counts).sum())
    segments = -(-total // (8 * step))
    stream = np.full(segments * step, 255, np.uint8)
    starts = np.zeros(segments, f"u{_start_width(code.nodes)}")
    shifts = np.arange(int(code.lengths[-1]))
    at, left = 0, np.empty(0, np.uint8)
    for first in range(0, len(symbols), _CHUNK):
        ranks = rank_of[symbols[first : first + _CHUNK]]
        lengths = code.lengths[ranks]
        ends = at + np.cumsum(lengths)
        below = lengths[:, None] - 1 - shifts
        bits = (code.codes[ranks, None] >> np.maximum(below, 0) & 1).astype(np.uint8)
        bits = np.concatenate([left, bits[below >= 0]])
        whole = len(bits) // 8
        byte = (at - len(left)) // 8
        stream[byte : byte + whole] = np.packbits(bits[: 8 * whole])
        left = bits[8 * whole :]
        cut = np.arange(-(-at // (8 * step)), -(-int(ends[-1]) // (8 * step)))
        straddling = np.searchsorted(ends, cut * 8 * step, side="right")
        depth = cut * 8 * step - (ends - lengths)[straddling]
        starts[cut] = code.node_after(ranks[straddling], depth)
        at = int(ends[-1])
    if len(left):
        stream[at // 8] = np.packbits(np.append(left, np.ones(8 - len(left), np.uint8)))[0]
    tree = _column(code.tree_bits())
    return Segments(stream.reshape(segments, step), starts, tree, order[:-1], code.slots)


def _tables(code: Code) -> tuple[NDArray[np.int32], NDArray[np.int16]]:
    """For each tree node and byte: the next node, and the codes completed (or -1)."""
    inner = code.tree_bits().astype(np.int64)
    step = (inner * np.cumsum(inner)).reshape(-1, 2)
    emit = np.where(inner, 0, np.cumsum(1 - inner)).reshape(-1, 2, 1)
    emit[emit == len(code.lengths)] = 0
    while step.shape[1] < 256:
        nodes, width = step.shape
        first = np.broadcast_to(emit[:, :, None], (nodes, width, width, emit.shape[2]))
        emit = np.concatenate([first, emit[step]], 3).reshape(nodes, width * width, -1)
        step = step[step].reshape(nodes, -1)
    emit = emit.reshape(step.size, 2 * code.slots, 4 // code.slots).sum(2)
    return step.reshape(-1).astype(np.int32), (emit - 1).astype(np.int16)


def decode_segments(
    stream: Bytes, starts: Ints, tree: Bytes, codes: int, count: int, what: str
) -> NDArray[np.int16]:
    """Read ``count`` symbols: ranks among the codes; all segments advance in lock step.

    Args:
        stream: uint8 [segments, bytes per segment].
        starts: the tree node at the start of each segment.
        tree: the tree's bits, packed.
        codes: codes but the last, which means "nothing follows".
        count: symbols that the stream must hold.
        what: the tensor's name, for messages.

    Raises:
        PackedFormatError: if tree, starts or stream contradict each other or ``count``.
    """
    code = read_tree(np.unpackbits(tree.reshape(-1)), codes + 1, what)
    if (
        starts.shape != (len(stream),)
        or starts[0] != 0
        or not ((starts >= 0) & (starts < code.nodes)).all()
    ):
        raise PackedFormatError(f"tensor '{what}': wrong segment starts")
    if count > 8 * stream.size:
        raise PackedFormatError(f"tensor '{what}': {count} symbols in {stream.size} bytes")
    following, emitted = _tables(code)
    out = np.empty(count, np.int16)
    at = 0
    for first in range(0, len(stream), max(1, _CHUNK // stream.shape[1])):
        part = stream[first : first + max(1, _CHUNK // stream.shape[1])]
        state = starts[first : first + len(part)].astype(np.int32)
        path = np.empty((part.shape[1], len(part)), np.int32)
        for step, byte in enumerate(part.T):
            path[step] = state * 256 + byte
            state = following[path[step]]
        if (state[: len(starts) - first - 1] != starts[first + 1 : first + len(part) + 1]).any():
            raise PackedFormatError(f"tensor '{what}': a segment does not lead to the next one")
        symbols = emitted[path.T].reshape(-1)
        symbols = symbols[symbols >= 0]
        if at + len(symbols) > count:
            raise PackedFormatError(f"tensor '{what}': more than {count} symbols")
        out[at : at + len(symbols)] = symbols
        at += len(symbols)
    if at != count:
        raise PackedFormatError(f"tensor '{what}': {at} symbols instead of {count}")
    return out


def encode_levels(symbols: NDArray[np.integer], counts: Ints, limit: int) -> Levels:
    """Code symbols level by level: first the first bit of all, then the second of those left.

    Args:
        symbols: indices into ``counts``, one dimension.
        counts: how often each occurs, at least two symbols.
        limit: the longest code allowed.
    """
    code, order = make_code(counts, limit)
    ranks = _ranks_of(order)[symbols]
    values, lengths = code.codes[ranks], code.lengths[ranks]
    depth = int(code.lengths[-1])
    parts = [np.array([0, 1], np.uint8), code.tree_bits()]
    for level in range(depth):
        left = lengths > level
        parts.append((values[left] >> (lengths[left] - 1 - level) & 1).astype(np.uint8))
    return Levels(_column(np.concatenate(parts)), order, depth)


def decode_levels(bits: Bytes, codes: int, count: int, depth: int, what: str) -> Ints:
    """Read ``count`` symbols: ranks among the codes.

    Raises:
        PackedFormatError: if the bits are not one tree and exactly ``count`` symbols.
    """
    if count > 8 * bits.size:
        raise PackedFormatError(f"tensor '{what}': {count} symbols in {bits.size} bytes")
    flags = np.unpackbits(bits.reshape(-1))
    if list(flags[:2]) != [0, 1]:
        raise PackedFormatError(f"tensor '{what}': the bits do not begin with 01")
    code = read_tree(flags[2:], codes, what)
    if int(code.lengths[-1]) > depth:
        raise PackedFormatError(
            f"tensor '{what}': codes of {code.lengths[-1]} bits, its function reads {depth}"
        )
    tree = code.tree_bits().astype(np.int64)
    child, leaf = 2 * np.cumsum(tree), np.cumsum(1 - tree) - 1
    node = np.zeros(count, np.int64)  # position of a node's first child among the tree's bits
    rank = np.empty(count, np.int64)
    left, at = np.arange(count), 2 * codes
    while len(left):
        part = flags[at : at + len(left)]
        if len(part) < len(left):
            raise PackedFormatError(f"tensor '{what}': the bits end too early")
        at += len(part)
        here = node[left] + part
        inner = tree[here] == 1
        rank[left[~inner]] = leaf[here[~inner]]
        node[left[inner]] = child[here[inner]]
        left = left[inner]
    if len(flags) - at >= 8 or flags[at:].any():
        raise PackedFormatError(f"tensor '{what}': bits are left over")
    return rank
