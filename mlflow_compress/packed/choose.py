"""Chooses how to code an array from histograms, and writes the choice.

Every candidate is a :class:`Plan`: an estimated size and a function that writes it. Only the
cheapest is written. ``docs/format.md``, sections 4 and 5.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mlflow_compress.packed import arrays, backends
from mlflow_compress.packed.arrays import Items
from mlflow_compress.packed.format import varint
from mlflow_compress.packed.tables import Counts, write_lengths

Bytes = npt.NDArray[np.uint8]
PER_LANE = 4096
FEW = 4096
SPARSE_SHARE = 0.5


@dataclass(frozen=True)
class Plan:
    """A way to code an array: estimated bytes, and what writes it."""

    cost: float
    write: Callable[[], bytes]


def encode(data: bytes | memoryview, width: int, floating: bool, row: int) -> bytes:
    """Code a tensor's bytes losslessly in the smallest way found.

    Args:
        data: the tensor's ``raw_data``.
        width: bytes per item: 1, 2, 4 or 8.
        floating: whether items are floats (their sign is rotated away from the exponent).
        row: items per row, for what differs from row to row; 0 for none.

    Returns:
        The payload. Equal arguments give equal bytes.
    """
    items = arrays.items_of(data, width)
    if not len(items):
        return bytes([arrays.RAW])
    return _cheapest([_raw(items), *_codebooks(items), _sparse_or_plain(items, floating)]).write()


def _cheapest(plans: Sequence[Plan]) -> Plan:
    return min(plans, key=lambda plan: plan.cost)


def _raw(items: Items) -> Plan:
    return Plan(1 + items.nbytes, lambda: bytes([arrays.RAW]) + items.tobytes())


def _constant(items: Items) -> Plan:
    return Plan(1 + items.itemsize, lambda: bytes([arrays.CONSTANT]) + items[:1].tobytes())


def leaf(symbols: Bytes) -> Plan:
    """The best plan for bytes: raw, constant, Huffman, or several to a byte and then these."""
    if not len(symbols):
        return _raw(symbols)
    counts = backends.histogram(symbols)
    if counts.max() == len(symbols):
        return _constant(symbols)
    plans = [_raw(symbols), _huffman(symbols, counts)]
    largest = int(np.flatnonzero(counts)[-1])
    plans += [_several(symbols, bits) for bits in (1, 2, 4) if largest < 1 << bits]
    return _cheapest(plans)


def _several(symbols: Bytes, bits: int) -> Plan:
    per_byte = 8 // bits
    padded = np.zeros(-(-len(symbols) // per_byte) * per_byte, np.uint8)
    padded[: len(symbols)] = symbols
    together = np.zeros(len(padded) // per_byte, np.uint8)
    for place in range(per_byte):
        together |= padded[place::per_byte] << np.uint8(place * bits)
    counts = backends.histogram(together)
    if counts.max() == len(together):
        inner = _constant(together)
    else:
        inner = _cheapest([_raw(together), _huffman(together, counts)])
    return Plan(2 + inner.cost, lambda: bytes([arrays.PACKED, per_byte]) + inner.write())


def lane_size(count: int) -> int:
    """Symbols per lane and group for ``count`` symbols; 0 (one lane) for few."""
    if count < 1024:
        return 0
    groups = max(1, round(count / (8 * PER_LANE)))
    return -(-count // (8 * groups))


def _huffman(symbols: Bytes, counts: Counts) -> Plan:
    lengths = backends.code_lengths(counts)
    table = write_lengths(lengths)
    per_lane = lane_size(len(symbols))
    lanes = 8 * -(-len(symbols) // (8 * per_lane)) if per_lane else 1
    bits = int((counts * lengths).sum())
    cost = 1 + len(table) + 2 + bits / 8 + lanes * (1.5 if per_lane else 2)

    def write() -> bytes:
        lane_bytes, data = backends.encode_lanes(symbols, lengths, per_lane, 0)
        head = bytes([arrays.HUFFMAN]) + table + varint(2 * per_lane)
        return head + _lane_lengths(lane_bytes, per_lane) + data

    return Plan(cost, write)


def _lane_lengths(lane_bytes: npt.NDArray[np.int64], per_lane: int) -> bytes:
    least = int(lane_bytes.min())
    if not per_lane:
        return varint(least)
    extra = lane_bytes - least
    width = int(extra.max()).bit_length()
    bits = (extra[:, None] >> np.arange(width) & 1).astype(np.uint8)
    return varint(least) + bytes([width]) + np.packbits(bits, bitorder="little").tobytes()


def _values(items: Items, floating: bool) -> Plan:
    """Arrays below the level of sparse: a leaf, or byte planes of leaves."""
    if items.itemsize == 1:
        return leaf(items.astype(np.uint8, copy=False))
    if not len(items):
        return _raw(items)
    inner = [leaf(plane) for plane in backends.split(items, floating)]
    planes = Plan(
        2 + sum(plan.cost for plan in inner),
        lambda: bytes([arrays.PLANES, floating]) + b"".join(plan.write() for plan in inner),
    )
    return _cheapest([_raw(items), planes])


def _sparse_or_plain(items: Items, floating: bool) -> Plan:
    plain = _values(items, floating)
    background, share = _background(items)
    if share < SPARSE_SHARE:
        return plain
    return _cheapest([plain, _sparse(items, background, floating)])


def _background(items: Items) -> tuple[np.unsignedinteger, float]:
    """The most frequent item and its share; for wide items only 0 is tried."""
    if items.itemsize == 1:
        counts = backends.histogram(items.astype(np.uint8, copy=False))
        return items.dtype.type(counts.argmax()), float(counts.max() / len(items))
    return items.dtype.type(0), float((items == 0).mean())


def _sparse(items: Items, background: np.unsignedinteger, floating: bool) -> Plan:
    gaps, values = backends.gaps(items, int(background))
    gap_plan, value_plan = leaf(gaps), _values(values, floating)
    head = (
        bytes([arrays.SPARSE])
        + np.array([background], items.dtype).tobytes()
        + varint(len(values))
        + varint(len(gaps))
    )
    return Plan(
        len(head) + gap_plan.cost + value_plan.cost,
        lambda: head + gap_plan.write() + value_plan.write(),
    )


def _codebooks(items: Items) -> list[Plan]:
    found = backends.distinct(items, FEW)
    if found is None:
        return []
    values, indices = found
    if len(values) == 1:
        return [_constant(items)]
    if len(values) <= 256:
        if items.itemsize == 1 and len(values) > 16:
            return []
        return [_narrow(values, indices.astype(np.uint8))]
    return [_wide(values, indices)]


def _narrow(values: Items, indices: Bytes) -> Plan:
    inner = _sparse_or_plain(indices, False)
    head = bytes([arrays.CODEBOOK]) + varint(len(values)) + values.tobytes()
    return Plan(len(head) + inner.cost, lambda: head + inner.write())


def _wide(values: Items, indices: npt.NDArray[np.uint16]) -> Plan:
    high = (indices >> 8).astype(np.uint8)
    low = indices.astype(np.uint8)
    inner = [leaf(high)]
    inner += [leaf(low[high == part]) for part in range(-(-len(values) // 256))]
    head = bytes([arrays.WIDE]) + varint(len(values)) + values.tobytes()
    return Plan(
        len(head) + sum(plan.cost for plan in inner),
        lambda: head + b"".join(plan.write() for plan in inner),
    )
