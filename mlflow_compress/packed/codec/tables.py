"""Length-limited canonical Huffman codes and how a payload stores them.

Pure Python and numpy; both backends share it. ``docs/format.md``, section 5.
"""

import numpy as np
import numpy.typing as npt

from mlflow_compress.errors import PackedFormatError
from mlflow_compress.packed.format import Cursor

MAX_LENGTH = 12
FIRST_LAST = 6

Lengths = npt.NDArray[np.uint8]
Counts = npt.NDArray[np.int64]


def code_lengths(counts: Counts, limit: int = MAX_LENGTH) -> Lengths:
    """Optimal code lengths of at most ``limit`` bits; the C codec gives the same.

    Plain Huffman with two queues (van Leeuwen, 1976); package-merge (Larmore and Hirschberg, 1990)
    only where that is too deep. Of equal weights, leaves come before packages.

    Args:
        counts: how often each of 256 symbols occurs; at least two occur.
        limit: the longest code allowed.

    Returns:
        A length per symbol, 0 where it does not occur.
    """
    symbols = np.flatnonzero(counts)
    order = symbols[np.argsort(counts[symbols], kind="stable")]
    weights = counts[order].tolist()
    depths = _two_queues(weights)
    if max(depths) > limit:
        depths = _package_merge(weights, limit)
    lengths = np.zeros(256, np.uint8)
    lengths[order] = depths
    return lengths


def _two_queues(weights: list[int]) -> list[int]:
    """Depths of the leaves of a Huffman tree; ``weights`` ascend."""
    size = len(weights)
    inner: list[int] = []
    parent = [0] * (2 * size - 1)
    leaf = package = 0
    for made in range(size - 1):
        total = 0
        for _ in range(2):
            if leaf < size and (package == made or weights[leaf] <= inner[package]):
                total += weights[leaf]
                parent[leaf] = size + made
                leaf += 1
            else:
                total += inner[package]
                parent[size + package] = size + made
                package += 1
        inner.append(total)
    depth = [0] * (2 * size - 1)
    for node in range(2 * size - 3, -1, -1):
        depth[node] = depth[parent[node]] + 1
    return depth[:size]


def _package_merge(weights: list[int], limit: int) -> list[int]:
    """Depths of at most ``limit``; ``weights`` ascend."""
    row, is_leaf = list(weights), [[True] * len(weights)]
    for _ in range(limit - 1):
        packages = [row[i] + row[i + 1] for i in range(0, len(row) - 1, 2)]
        # sorting is stable, so of equal weights the leaves stay first
        merged = sorted([(w, True) for w in weights] + [(w, False) for w in packages], key=_weight)
        row = [weight for weight, _ in merged]
        is_leaf.append([leaf for _, leaf in merged])
    depths = [0] * len(weights)
    take = 2 * len(weights) - 2
    for level in reversed(is_leaf):
        leaves = sum(level[:take])
        for place in range(leaves):
            depths[place] += 1
        take = 2 * (take - leaves)
    return depths


def _weight(item: tuple[int, bool]) -> int:
    return item[0]


def canonical_codes(lengths: Lengths) -> npt.NDArray[np.uint16]:
    """Codes of a complete set of lengths, bit-reversed: ready for a low-bit-first string."""
    order = sorted(np.flatnonzero(lengths).tolist(), key=lambda symbol: (lengths[symbol], symbol))
    codes = np.zeros(256, np.uint16)
    code, last = 0, 0
    for symbol in order:
        length = int(lengths[symbol])
        code <<= length - last
        codes[symbol] = int(f"{code:0{length}b}"[::-1], 2)
        code, last = code + 1, length
    return codes


def decoding_table(lengths: Lengths) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
    """Symbol and length for every value of the next 12 bits."""
    codes = canonical_codes(lengths)
    symbols = np.zeros(1 << MAX_LENGTH, np.uint8)
    widths = np.zeros(1 << MAX_LENGTH, np.uint8)
    for symbol in np.flatnonzero(lengths).tolist():
        step = 1 << int(lengths[symbol])
        symbols[codes[symbol] :: step] = symbol
        widths[codes[symbol] :: step] = lengths[symbol]
    return symbols, widths


class _BitWriter:
    def __init__(self) -> None:
        self.value, self.count = 0, 0

    def put(self, value: int, bits: int) -> None:
        self.value |= value << self.count
        self.count += bits

    def bytes(self) -> bytes:
        return self.value.to_bytes((self.count + 7) // 8, "little")


def write_lengths(lengths: Lengths) -> bytes:
    """Serialise code lengths: lo, hi and the bit string."""
    used = np.flatnonzero(lengths)
    low, high = int(used[0]), int(used[-1])
    bits, last, symbol = _BitWriter(), FIRST_LAST, low
    while symbol <= high:
        length = int(lengths[symbol])
        if length == 0:
            run = 1
            while run < 16 and lengths[symbol + run] == 0:
                run += 1
            bits.put(0b011 | (run - 1) << 3, 7)
            symbol += run
            continue
        if length == last:
            bits.put(0, 1)
        elif abs(length - last) == 1:
            bits.put(0b001 | (length < last) << 2, 3)
        else:
            bits.put(0b111 | length << 3, 7)
        last = length
        symbol += 1
    return bytes([low, high]) + bits.bytes()


def read_lengths(cursor: Cursor) -> Lengths:
    """Parse and check code lengths.

    Raises:
        PackedFormatError: for anything that is not a complete code of at most 12 bits.
    """
    low, high = cursor.take(2)
    if low >= high:
        raise PackedFormatError(f"{cursor.what}: code table from {low} to {high}")
    lengths = np.zeros(256, np.uint8)
    value, count, last, symbol = 0, 0, FIRST_LAST, low
    while symbol <= high:
        while count < 7 and cursor.at < len(cursor.data):
            value |= cursor.byte() << count
            count += 8
        kind, bits, length, run = _token(value, last)
        if bits > count:
            raise PackedFormatError(f"{cursor.what}: code table is cut off")
        if kind == "run":
            symbol += run
        else:
            if not 1 <= length <= MAX_LENGTH:
                raise PackedFormatError(f"{cursor.what}: code length {length}")
            lengths[symbol] = last = length
            symbol += 1
        value, count = value >> bits, count - bits
    cursor.at -= count // 8
    if value & ((1 << count % 8) - 1):
        raise PackedFormatError(f"{cursor.what}: padding after the code table is not 0")
    total = sum(1 << (MAX_LENGTH - int(length)) for length in lengths[lengths > 0])
    if symbol != high + 1 or not lengths[low] or not lengths[high] or total != 1 << MAX_LENGTH:
        raise PackedFormatError(f"{cursor.what}: code table is not complete")
    return lengths


def _token(value: int, last: int) -> tuple[str, int, int, int]:
    """What the next bits say: kind, bits used, length, run."""
    if not value & 1:
        return "length", 1, last, 0
    if not value & 2:
        return "length", 3, last - 1 if value & 4 else last + 1, 0
    if not value & 4:
        return "run", 7, 0, (value >> 3 & 15) + 1
    return "length", 7, value >> 3 & 15, 0


def entropy_bits(counts: Counts) -> float:
    """Shannon entropy of a histogram times its total: bits for all symbols (order 0)."""
    used = counts[counts > 0].astype(np.float64)
    total = used.sum()
    return float(total * np.log2(total) - (used * np.log2(used)).sum()) if total else 0.0
