"""Canonical Huffman codes of the portable profile: lengths, codes and the tree as bits.

The tree is numbered breadth first. In a canonical code the leaves of a level stand before its
inner nodes, so one bit per child (1: inner node, 0: leaf), two per inner node, describes it all;
``docs/format.md``, section 7.
"""

import heapq
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mlflow_compress.errors import PackedFormatError

__all__ = ["MAX_LENGTH", "MAX_SYMBOLS", "Code", "make_code", "read_tree"]

MAX_LENGTH = 15
MAX_SYMBOLS = 1024

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Code:
    """A complete canonical code; everything is in the order of the codes.

    Attributes:
        lengths: bits of each code, ascending.
        codes: the codes' values, most significant bit first.
        leaves: codes of each length, index 0 to the longest.
        inner: inner nodes at each depth; ``inner[0]`` is the root.
    """

    lengths: Ints
    codes: Ints
    leaves: Ints
    inner: Ints

    @property
    def nodes(self) -> int:
        """Inner nodes in all: one fewer than codes."""
        return len(self.lengths) - 1

    @property
    def slots(self) -> int:
        """How many codes can end within a nibble, rounded up to a power of two."""
        return {1: 4, 2: 2, 3: 2}.get(int(self.lengths[0]), 1)

    def tree_bits(self) -> NDArray[np.uint8]:
        """One bit per child of each inner node, breadth first: 1 inner, 0 leaf."""
        runs = np.stack([self.leaves[1:], self.inner[1:]], 1).reshape(-1)
        return np.repeat(np.tile([0, 1], len(runs) // 2), runs).astype(np.uint8)

    def node_after(self, codes: Ints, depth: Ints) -> Ints:
        """Number of the inner node that the first ``depth`` bits (0: the root) lead to."""
        prefix = self.codes[codes] >> (self.lengths[codes] - depth)
        above = np.cumsum(self.inner) - self.inner
        return above[depth] + prefix - _first_codes(self.leaves)[depth] - self.leaves[depth]


def make_code(counts: Ints, limit: int) -> tuple[Code, Ints]:
    """Build an optimal code of at most ``limit`` bits.

    Package-merge: Larmore and Hirschberg, "A fast algorithm for optimal length-limited Huffman
    codes" (1990), section 2. Of symbols that occur equally often a later one is never shorter,
    and the last symbol of count 0 is the very last code.

    Args:
        counts: how often each symbol occurs, at least two symbols.
        limit: the longest code, raised where so many symbols need more.

    Returns:
        The code, and the symbol of each of its codes.
    """
    limit = max(limit, int(len(counts) - 1).bit_length())
    order = np.lexsort((-np.arange(len(counts)), counts))
    leaves: list[tuple[int, tuple[int, ...]]] = [
        (int(weight), (place,)) for place, weight in enumerate(counts[order])
    ]
    row: list[tuple[int, tuple[int, ...]]] = leaves
    for _ in range(limit - 1):
        pairs = zip(row[::2], row[1::2], strict=False)
        packages = [(a[0] + b[0], a[1] + b[1]) for a, b in pairs]
        row = list(heapq.merge(leaves, packages, key=lambda item: item[0]))
    bought = [place for _, places in row[: 2 * len(counts) - 2] for place in places]
    lengths = np.empty(len(counts), np.int64)
    lengths[order] = np.bincount(bought, minlength=len(counts))
    symbols = np.lexsort((np.arange(len(counts)), lengths))
    return _canonical(np.bincount(lengths)), symbols


def _first_codes(leaves: Ints) -> Ints:
    """The first code of each length: how many prefixes of it the shorter codes use up."""
    first = np.zeros_like(leaves)
    for depth in range(1, len(leaves)):
        first[depth] = 2 * (first[depth - 1] + leaves[depth - 1])
    return first


def _canonical(leaves: Ints) -> Code:
    lengths = np.repeat(np.arange(len(leaves)), leaves)
    first = _first_codes(leaves)
    rank = np.arange(len(lengths)) - (np.cumsum(leaves) - leaves)[lengths]
    inner = (1 << np.arange(len(leaves))) - first - leaves
    return Code(lengths, first[lengths] + rank, leaves, inner)


def read_tree(bits: NDArray[np.uint8], codes: int, what: str) -> Code:
    """Parse and check a tree; bits after it are not looked at.

    Args:
        bits: zeros and ones.
        codes: leaves that the tree must have, at least two.
        what: the tensor's name, for messages.

    Raises:
        PackedFormatError: if the bits are no canonical tree of that many leaves.
    """
    at, inner, leaves = 0, 1, [0]
    while inner:
        level = bits[at : at + 2 * inner]
        at += len(level)
        ones = int(level.sum())
        if len(level) < 2 * inner or level[: len(level) - ones].any() or at > 2 * codes:
            raise PackedFormatError(f"tensor '{what}': the code tree is not canonical")
        if len(leaves) > MAX_LENGTH:
            raise PackedFormatError(f"tensor '{what}': a code is longer than {MAX_LENGTH} bits")
        leaves.append(len(level) - ones)
        inner = ones
    if at != 2 * codes - 2:
        raise PackedFormatError(
            f"tensor '{what}': the code tree has {at // 2 + 1} leaves, {codes} are needed"
        )
    return _canonical(np.array(leaves, np.int64))
