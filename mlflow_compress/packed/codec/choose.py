"""Chooses how to code an array from histograms, and writes the choice.

Every candidate is a :class:`Plan`: an estimated size and a function that writes it. Only the
cheapest is written. ``docs/format.md``, sections 4 to 6.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt

from mlflow_compress.packed.codec import arrays, backends, clusters, numpy_codec
from mlflow_compress.packed.codec.arrays import Items
from mlflow_compress.packed.codec.tables import Counts, entropy_bits
from mlflow_compress.packed.format import varint

Bytes = npt.NDArray[np.uint8]
Parts = list[bytes | memoryview]
ONE_LANE = 1024
FEW = 4096
SPARSE_SHARE = 0.5
SURELY_SPARSE = 0.85
# rows and contexts have tables of their own: not worth a look in small arrays
LARGE = 16384
LEAST_ROW = 32
MOST_ROW = 1 << 22
# what several tables must save, for they decode more slowly
LEAST_ROWS_GAIN = 0.002
LEAST_CONTEXT_GAIN = 0.05
SAMPLED_ROWS = 192
TABLE_BITS = 8 * 80


@dataclass(frozen=True)
class Plan:
    """A way to code an array: estimated bytes, and what adds the parts of the payload."""

    cost: float
    write: Callable[[Parts], None]


def encode(
    data: bytes | memoryview, width: int, floating: bool, row: int = 0, taps: int = 0
) -> bytes:
    """Code a tensor's bytes losslessly in the smallest way found.

    Args:
        data: the tensor's ``raw_data``.
        width: bytes per item: 1, 2, 4 or 8.
        floating: whether items are floats (their sign is rotated away from the exponent).
        row: items per index of the first dimension, for what differs from row to row; 0 for none.
        taps: items per convolution kernel, whose neighbours are alike; 0 for none.

    Returns:
        The payload. Equal arguments give equal bytes, in both backends.
    """
    items = arrays.items_of(data, width)
    if not len(items):
        return bytes([arrays.RAW])
    if width == 1:
        symbols = items.astype(np.uint8, copy=False)
        plan = _of_bytes(symbols, backends.histogram(symbols), row, taps)
    else:
        plan = _cheapest([*_of_items(items, row, floating), *_codebooks(items, row, taps)])
    parts: Parts = []
    plan.write(parts)
    return b"".join(parts)


def _compound(head: bytes, inner: Sequence[Plan]) -> Plan:
    """A plan that writes a head and then other plans."""

    def write(parts: Parts) -> None:
        parts.append(head)
        for plan in inner:
            plan.write(parts)

    return Plan(len(head) + sum(plan.cost for plan in inner), write)


def _cheapest(plans: Sequence[Plan]) -> Plan:
    return min(plans, key=lambda plan: plan.cost)


def _raw(items: Items) -> Plan:
    view = items.view(np.uint8).data
    return Plan(1 + items.nbytes, lambda parts: parts.extend([bytes([arrays.RAW]), view]))


def _constant(items: Items) -> Plan:
    return _compound(bytes([arrays.CONSTANT]) + items[:1].tobytes(), [])


def _same(symbols: Bytes) -> Bytes:
    return symbols


# bytes


def _of_bytes(symbols: Bytes, counts: Counts, row: int, taps: int) -> Plan:
    """The best plan for items of one byte."""
    used = np.flatnonzero(counts)
    if 1 < len(used) <= 16 and used[-1] >= 16:
        table = np.zeros(256, np.uint8)
        table[used] = np.arange(len(used))
        renamed = np.zeros(256, np.int64)
        renamed[: len(used)] = counts[used]
        inner = _of_bytes(backends.translate(symbols, table), renamed, row, taps)
        head = bytes([arrays.CODEBOOK, len(used), *used.tolist()])
        return _cheapest([_compound(head, [inner]), _sparse_or_plain(symbols, counts)])
    if len(symbols) >= LARGE and len(used) > 1:
        floor = entropy_bits(counts) / 8
        if taps > 1:
            context = _context(symbols, floor)
            if context is not None:
                return context
        ids = _row_clusters(symbols, row, floor)
        if ids is not None:
            names, sums = ids
            lines = symbols.reshape(-1, row)
            parts = [lines[np.flatnonzero(names == c)].reshape(-1) for c in range(len(sums))]
            return _rows(row, names, list(map(_sparse_or_plain, parts, sums)))
    return _sparse_or_plain(symbols, counts)


def _leaf(counts: Counts, symbols: Callable[[], Bytes], pack: bool = True) -> Plan:
    """The best plan for bytes: raw, constant, Huffman, or several to a byte and then these.

    Args:
        counts: their histogram, up to 256 numbers.
        symbols: gives the bytes; called only if they are needed.
        pack: whether several to a byte is to be looked at, for which the bytes are needed.
    """
    total = int(counts.sum())
    if total == 0:
        return _compound(bytes([arrays.RAW]), [])
    largest = int(np.flatnonzero(counts)[-1])
    if counts.max() == total:
        return _compound(bytes([arrays.CONSTANT, largest]), [])
    raw = Plan(1 + total, lambda parts: parts.extend([bytes([arrays.RAW]), symbols().data]))
    plans = [raw, _huffman(counts, symbols)]
    if largest < 16 and pack:
        several = [per_byte for per_byte in (2, 4, 8) if largest < 1 << 8 // per_byte]
        plans += [_several(symbols(), per_byte) for per_byte in several]
    return _cheapest(plans)


def _several(symbols: Bytes, per_byte: int) -> Plan:
    together = backends.several(symbols, per_byte)
    counts = backends.histogram(together)
    if counts.max() == len(together):
        inner = _constant(together)
    else:
        inner = _cheapest([_raw(together), _huffman(counts, lambda: together)])
    return _compound(bytes([arrays.PACKED, per_byte]), [inner])


def _huffman(counts: Counts, symbols: Callable[[], Bytes]) -> Plan:
    if len(counts) < 256:
        counts = np.concatenate([counts, np.zeros(256 - len(counts), counts.dtype)])
    lengths = backends.code_lengths(counts)
    table = backends.write_lengths(lengths)
    total = int(counts.sum())
    per_lane = _lane_size(total)
    lanes = 8 * -(-total // (8 * per_lane)) if per_lane else 1
    bits = int(counts @ lengths)
    cost = 1 + len(table) + 2 + bits / 8 + lanes * (1.5 if per_lane else 2)

    def write(parts: Parts) -> None:
        lane_bytes, data = backends.encode_lanes(symbols(), lengths, per_lane, 0, bits)
        head = bytes([arrays.HUFFMAN]) + table + varint(2 * per_lane)
        parts += [head, _lane_lengths(lane_bytes, bool(per_lane)), data]

    return Plan(cost, write)


def _lane_size(count: int) -> int:
    """Symbols per lane and group for ``count`` symbols; 0 (one lane) for few."""
    if count < ONE_LANE:
        return 0
    groups = -(-count // (8 * arrays.MAX_LANE))
    return -(-count // (8 * groups))


def _lane_lengths(lane_bytes: npt.NDArray[np.int64], several: bool) -> bytes:
    least = int(lane_bytes.min())
    if not several:
        return varint(least)
    extra = lane_bytes - least
    width = int(extra.max()).bit_length()
    bits = (extra[:, None] >> np.arange(width) & 1).astype(np.uint8)
    return varint(least) + bytes([width]) + np.packbits(bits, bitorder="little").tobytes()


def _sparse_or_plain(symbols: Bytes, counts: Counts) -> Plan:
    background = int(counts.argmax())
    share = counts[background] / len(symbols)
    if SURELY_SPARSE <= share < 1:
        return _sparse(symbols, background, False)
    plain = _leaf(counts, lambda: symbols)
    if not SPARSE_SHARE <= share < 1:
        return plain
    return _cheapest([plain, _sparse(symbols, background, False)])


def _row_clusters(symbols: Bytes, row: int, floor: float) -> tuple[Bytes, Counts] | None:
    """Up to four clusters of rows, and their histograms, if tables of their own pay.

    ``floor`` is the entropy without clusters, in bytes.
    """
    if not LEAST_ROW <= row <= MOST_ROW or len(symbols) // row < 2 * clusters.CLUSTERS:
        return None
    count = len(symbols) // row
    step = max(-(-count // SAMPLED_ROWS), 4 if count >= 256 else 1)
    costs = backends.train_rows(symbols, row, step)
    if step > 1:
        ids, sums = backends.assign_rows(symbols, row, step, costs)
        if _rows_gain(sums, len(ids), step) < LEAST_ROWS_GAIN * floor:
            return None
    ids, sums = clusters.without_holes(*backends.assign_rows(symbols, row, 1, costs))
    if len(sums) < 2 or _rows_gain(sums, count) < LEAST_ROWS_GAIN * floor:
        return None
    return ids, sums


def _rows(row: int, ids: Bytes, inner: Sequence[Plan]) -> Plan:
    """Rows in clusters, each coded on its own (kind 7)."""
    head = bytes([arrays.ROWS]) + varint(row) + bytes([len(inner)])
    return _compound(head, [_leaf(np.bincount(ids, minlength=256), lambda: ids), *inner])


def _rows_gain(sums: Counts, rows: int, step: int = 1) -> float:
    """Bytes that clusters may save, by their entropies, less what tables and names cost.

    ``step`` is how many times more rows there are than were summed.
    """
    gain = entropy_bits(sums.sum(axis=0)) - sum(entropy_bits(part) for part in sums)
    return (step * (gain - 2 * rows) - TABLE_BITS * (len(sums) - 1)) / 8


def _context(symbols: Bytes, floor: float) -> Plan | None:
    """A table for each of up to four classes of the symbol before (kind 3), if that pays."""
    per_lane = _lane_size(len(symbols))
    pairs = backends.pair_histogram(symbols).astype(np.int64)
    # the first symbol of a lane follows a 0, whatever stands before it in the array
    starts = np.cumsum(numpy_codec.lane_starts(len(symbols), per_lane, 1)[0])[:-1]
    starts = starts[starts < len(symbols)]
    np.subtract.at(pairs, (symbols[starts - 1], symbols[starts]), 1)
    np.add.at(pairs[0], symbols[starts], 1)
    seen = np.flatnonzero(pairs.sum(axis=1))
    if len(seen) < 2:
        return None
    ids, counts = clusters.assign(pairs[seen], clusters.train(pairs[seen]))
    ids, counts = clusters.without_holes(ids, counts)
    if len(counts) < 2 or any(np.count_nonzero(part) < 2 for part in counts):
        return None
    if sum(entropy_bits(part) for part in counts) / 8 > (1 - LEAST_CONTEXT_GAIN) * floor:
        return None
    # symbols that come before no other take their neighbour's class, which keeps the runs long
    classes = ids[np.maximum(np.searchsorted(seen, np.arange(256), side="right") - 1, 0)]
    runs = clusters.runs(classes)
    if len(runs) // 2 > 255:
        return None
    lengths = np.zeros((4, 256), np.uint8)
    lengths[: len(counts)] = [backends.code_lengths(part, 11) for part in counts]
    tables = b"".join(backends.write_lengths(lengths[c]) for c in range(len(counts)))
    head = bytes([arrays.CONTEXT, len(counts), len(runs) // 2]) + runs
    bits = sum(int(part @ lengths[c]) for c, part in enumerate(counts))

    def write(parts: Parts) -> None:
        lanes, data = backends.encode_context(symbols, lengths, classes, per_lane, bits)
        parts += [head, tables, varint(per_lane), _lane_lengths(lanes, True), data]

    return Plan(len(head) + len(tables) + bits / 8, write)


# items of several bytes


def _of_items(items: Items, row: int, floating: bool) -> Iterator[Plan]:
    planes = list(backends.split(items, floating))
    counts = [backends.histogram(plane) for plane in planes]
    yield _raw(items)
    yield _planes(planes, counts, floating)
    zeros = len(items) - int(np.count_nonzero(items))
    if SPARSE_SHARE * len(items) <= zeros < len(items):
        yield _sparse(items, 0, floating)
    elif len(items) >= LARGE and np.count_nonzero(counts[-1]) > 1:
        # rows differ in their exponents, if in anything
        ids = _row_clusters(planes[-1], row, entropy_bits(counts[-1]) / 8)
        if ids is not None:
            yield _rows_of_planes(planes, counts, row, *ids, floating)


def _values(items: Items, floating: bool) -> Plan:
    """Arrays below the level of sparse: a leaf, or byte planes of leaves."""
    if items.itemsize == 1:
        symbols = items.astype(np.uint8, copy=False)
        return _leaf(backends.histogram(symbols), lambda: symbols)
    if not len(items):
        return _raw(items)
    planes = list(backends.split(items, floating))
    return _cheapest(
        [_raw(items), _planes(planes, [backends.histogram(plane) for plane in planes], floating)]
    )


def _planes(planes: Sequence[Bytes], counts: Sequence[Counts | None], floating: bool) -> Plan:
    """Byte planes with their histograms; None for a plane that is not worth coding."""
    inner = [
        _raw(plane) if count is None else _leaf(count, partial(_same, plane))
        for plane, count in zip(planes, counts, strict=True)
    ]
    return _compound(bytes([arrays.PLANES, floating]), inner)


def _rows_of_planes(
    planes: Sequence[Bytes],
    counts: Sequence[Counts],
    row: int,
    ids: Bytes,
    sums: Counts,
    floating: bool,
) -> Plan:
    """Rows in clusters by their last plane, whose histograms are ``sums``."""
    tables = [plane.reshape(-1, row) for plane in planes]
    dull = [entropy_bits(count) > 7.97 * int(count.sum()) for count in counts[:-1]]

    def inner(cluster: int) -> Plan:
        mine = np.flatnonzero(ids == cluster)
        parts = [table[mine].reshape(-1) for table in tables]
        known = [
            None if skip else backends.histogram(part)
            for skip, part in zip(dull, parts, strict=False)
        ]
        return _planes(parts, [*known, sums[cluster]], floating)

    return _rows(row, ids, [inner(cluster) for cluster in range(len(sums))])


def _sparse(items: Items, background: int, floating: bool) -> Plan:
    gaps, values = backends.gaps(items, background)
    gap_plan, value_plan = _values(gaps, False), _values(values, floating)
    head = (
        bytes([arrays.SPARSE])
        + background.to_bytes(items.itemsize, "little")
        + varint(len(values))
        + varint(len(gaps))
    )
    return _compound(head, [gap_plan, value_plan])


def _codebooks(items: Items, row: int, taps: int) -> Iterator[Plan]:
    found = backends.distinct(items, FEW)
    if found is None:
        return
    values, indices, counts = found
    if len(values) == 1:
        yield _constant(items)
    elif len(values) <= 256:
        yield _narrow(values, indices.astype(np.uint8), counts, row, taps)
    else:
        yield _wide(values, indices, counts)


def _narrow(values: Items, indices: Bytes, counts: Counts, row: int, taps: int) -> Plan:
    full = np.zeros(256, np.int64)
    full[: len(counts)] = counts
    head = bytes([arrays.CODEBOOK]) + varint(len(values)) + values.tobytes()
    return _compound(head, [_of_bytes(indices, full, row, taps)])


def _wide(values: Items, indices: npt.NDArray[np.uint16], counts: Counts) -> Plan:
    joint = np.zeros(FEW, np.int64)
    joint[: len(counts)] = counts
    parts = joint.reshape(16, 256)
    sizes = parts.sum(axis=1)
    divided: list[tuple[Bytes, list[Bytes]]] = []

    def high() -> Bytes:
        if not divided:
            divided.append(backends.divide(indices, sizes))
        return divided[0][0]

    def low(part: int) -> Bytes:
        high()
        return divided[0][1][part]

    high_counts = np.zeros(256, np.int64)
    high_counts[:16] = sizes
    inner = [_leaf(high_counts, high, pack=False)]
    for part in range(-(-len(values) // 256)):
        inner.append(_leaf(parts[part], partial(low, part), pack=False))
    head = bytes([arrays.WIDE]) + varint(len(values)) + values.tobytes()
    return _compound(head, inner)
