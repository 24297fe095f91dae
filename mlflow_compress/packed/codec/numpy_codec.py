"""The numpy backend: both directions of the Huffman lanes, and the oracle for the C one.

All lanes advance in lock step, a symbol a step, so a step costs a few numpy calls however many
lanes there are. ``docs/format.md``, section 5.
"""

import numpy as np
import numpy.typing as npt

from mlflow_compress.errors import PackedFormatError
from mlflow_compress.packed.codec.tables import (
    MAX_LENGTH,
    Counts,
    Lengths,
    canonical_codes,
    decoding_table,
)

Bytes = npt.NDArray[np.uint8]
LANES = 8
_CHUNK = 1 << 20


def histogram(symbols: Bytes) -> Counts:
    """How often each byte value occurs."""
    return np.bincount(symbols, minlength=256).astype(np.int64)


def lane_starts(count: int, per_lane: int, layout: int) -> tuple[npt.NDArray[np.int64], int]:
    """Symbols in each lane, group by group, and the number of groups.

    Args:
        count: symbols in all.
        per_lane: symbols per lane and group (K); 0 for one lane.
        layout: 0 interleaved, 1 contiguous.
    """
    if per_lane == 0:
        return np.array([count], np.int64), 1
    groups = -(-count // (LANES * per_lane))
    sizes = np.full(groups * LANES, per_lane, np.int64)
    rest = count - (groups - 1) * LANES * per_lane
    last = np.full(LANES, rest // LANES, np.int64)
    if layout:
        last[-1] += rest % LANES
    else:
        last[: rest % LANES] += 1
    sizes[-LANES:] = last
    return sizes, groups


def to_lanes(symbols: npt.NDArray[np.uint8], per_lane: int, layout: int) -> Bytes:
    """Reorder symbols so that each lane's stand together, lane after lane."""
    if per_lane == 0 or layout:
        return symbols
    whole = len(symbols) // (LANES * per_lane) * LANES * per_lane
    head = symbols[:whole].reshape(-1, per_lane, LANES).transpose(0, 2, 1).reshape(-1)
    tail = [symbols[whole + lane :: LANES] for lane in range(LANES)]
    return np.concatenate([head, *tail])


def from_lanes(symbols: Bytes, per_lane: int, layout: int) -> Bytes:
    """Undo :func:`to_lanes`."""
    if per_lane == 0 or layout:
        return symbols
    whole = len(symbols) // (LANES * per_lane) * LANES * per_lane
    out = np.empty_like(symbols)
    head = symbols[:whole].reshape(-1, LANES, per_lane).transpose(0, 2, 1)
    out[:whole] = head.reshape(-1)
    at = whole
    for lane in range(LANES):
        target = out[whole + lane :: LANES]
        target[:] = symbols[at : at + len(target)]
        at += len(target)
    return out


def encode_lanes(
    symbols: Bytes, lengths: Lengths, per_lane: int, layout: int
) -> tuple[npt.NDArray[np.int64], bytes]:
    """Write symbols as Huffman lanes.

    Returns:
        The lanes' lengths in bytes and the lanes, one after the other.
    """
    sizes, _ = lane_starts(len(symbols), per_lane, layout)
    ordered = to_lanes(symbols, per_lane, layout)
    return write_lanes(canonical_codes(lengths)[ordered], lengths[ordered], sizes)


def write_lanes(
    codes: npt.NDArray[np.uint16], lengths: Bytes, sizes: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.int64], bytes]:
    """Write codes of these lengths, lane after lane of these sizes."""
    ends = np.cumsum(sizes)
    total = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
    lane_bytes = (total[ends] - total[ends - sizes] + 7) // 8
    starts = np.cumsum(lane_bytes) - lane_bytes
    out = np.zeros(int(lane_bytes.sum()) + 3, np.int64)
    for first in range(0, len(codes), _CHUNK):
        part = slice(first, min(first + _CHUNK, len(codes)))
        lane = np.searchsorted(ends, np.arange(part.start, part.stop), side="right")
        at = starts[lane] * 8 + total[part.start : part.stop] - total[ends[lane] - sizes[lane]]
        word = codes[part].astype(np.int64) << (at & 7)
        byte = at >> 3
        base = int(byte[0])
        span = int(byte[-1]) - base + 1
        for shift in range(3):
            # the codes' bits do not overlap, so adding is or-ing
            part_sum = np.bincount(byte - base, (word >> 8 * shift) & 255, minlength=span)
            out[base + shift : base + shift + span] += part_sum.astype(np.int64)
    return lane_bytes, out[:-3].astype(np.uint8).tobytes()


def decode_lanes(
    data: Bytes,
    lane_bytes: npt.NDArray[np.int64],
    lengths: Lengths,
    count: int,
    per_lane: int,
    layout: int,
    what: str,
) -> Bytes:
    """Read ``count`` symbols from Huffman lanes.

    Raises:
        PackedFormatError: if a lane does not end where it should.
    """
    sizes, _ = lane_starts(count, per_lane, layout)
    starts = np.cumsum(lane_bytes) - lane_bytes
    longest = int(sizes.max())
    # a damaged lane runs on for at most 12 bits a symbol: pad so that it stays inside
    padded = np.concatenate([data, np.zeros(longest * MAX_LENGTH // 8 + 16, np.uint8)])
    symbols, widths = decoding_table(lengths)
    at = starts * 8
    out = np.empty((longest, len(sizes)), np.uint8)
    shortest = int(sizes.min())
    words = np.ndarray((len(padded) - 7,), "<u8", padded, 0, (1,))
    mask = np.uint64((1 << MAX_LENGTH) - 1)
    step = 0
    while step < longest:
        active = slice(None) if step < shortest else np.flatnonzero(sizes > step)
        here = at[active]
        word = words[here >> 3] >> (here & 7).astype(np.uint64)
        for _ in range(min(4, (shortest if step < shortest else step + 1) - step)):
            index = (word & mask).astype(np.intp)
            width = widths[index]
            out[step, active] = symbols[index]
            word >>= width
            here += width
            step += 1
        at[active] = here
    if not np.array_equal((at + 7) // 8 - starts, lane_bytes):
        raise PackedFormatError(f"{what}: a Huffman lane does not end where it should")
    if per_lane == 0:
        return out[:, 0]
    lanes = [out[: sizes[lane], lane] for lane in range(len(sizes) - LANES, len(sizes))]
    whole = out[:per_lane, :-LANES].T.reshape(-1)
    return from_lanes(np.concatenate([whole, *lanes]), per_lane, layout)


def gaps(items: npt.NDArray[np.unsignedinteger], background: int) -> tuple[Bytes, npt.NDArray]:
    """Cut items into gaps and values (``docs/format.md``, section 4, kind 6)."""
    places = np.flatnonzero(items != items.dtype.type(background))
    steps = np.diff(places, prepend=-1) - 1
    escapes = steps // 255
    ends = np.cumsum(escapes + 1)
    out = np.full(int(ends[-1]) if len(ends) else 0, 255, np.uint8)
    out[ends - 1] = steps % 255
    return out, items[places]


def split(items: npt.NDArray[np.unsignedinteger], rotate: bool) -> Bytes:
    """Byte planes of items of several bytes, lowest first: shape (width, n)."""
    kind = items.dtype.type
    turned: npt.NDArray[np.unsignedinteger] = items
    if rotate:
        turned = np.bitwise_or(items << kind(1), items >> kind(8 * items.itemsize - 1))
    return np.ascontiguousarray(turned.reshape(-1, 1).view(np.uint8).T)


def several(symbols: Bytes, per_byte: int) -> Bytes:
    """Pack several small symbols into each byte (``docs/format.md``, section 4, kind 4)."""
    padded = np.zeros(-(-len(symbols) // per_byte) * per_byte, np.uint8)
    padded[: len(symbols)] = symbols
    out = np.zeros(len(padded) // per_byte, np.uint8)
    for place in range(per_byte):
        out |= padded[place::per_byte] << np.uint8(place * (8 // per_byte))
    return out
