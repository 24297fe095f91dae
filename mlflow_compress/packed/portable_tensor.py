"""One weight of the portable profile: what each kind costs, its node, and back.

``docs/format.md``, section 7, describes the kinds.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, ValueInfoProto, helper

from mlflow_compress.packed import portable_stream as streams
from mlflow_compress.packed.format import DOMAIN, width_of
from mlflow_compress.packed.portable_code import MAX_SYMBOLS, Ints
from mlflow_compress.packed.portable_functions import LEVEL_KINDS

__all__ = ["DTYPES", "FIXED_WEIGHTS", "INPUTS", "LIMIT", "Candidate", "PortableTensor"]

# All that the CPU kernels of every runtime tried gather, compress and scatter.
DTYPES = frozenset(
    getattr(TensorProto, name)
    for name in (
        *("FLOAT", "FLOAT16", "BFLOAT16", "DOUBLE", "BOOL"),
        *("INT8", "INT16", "INT32", "INT64", "UINT8", "UINT16", "UINT32", "UINT64"),
    )
)
MAX_GAP = 255
# ONNX Runtime folds outputs of up to 1 GiB, and the largest here, 8 slots for each byte of stream,
# is below 8 times the weight. Transient memory is 3 to 50 bytes for each weight.
MAX_BYTES = 1 << 26
FIXED_WEIGHTS = {1: [128, 64, 32, 16, 8, 4, 2, 1], 2: [64, 16, 4, 1], 4: [16, 1]}

LIMIT = 12  # longest code of the kinds coded in levels
INPUTS = {
    "Fixed": 2,
    "Huffman": 4,
    "Levels": 2,
    "Sparse": 8,
    "SparseLevels": 4,
    "Gaps": 6,
    "GapsLevels": 4,
}

Values = NDArray[np.unsignedinteger]


@dataclass(frozen=True)
class PortableTensor:
    """A weight as it stands in the file.

    Attributes:
        node: the call that computes it.
        initializers: what the node reads.
        value_infos: lengths of the node's outputs but the first; without them ONNX Runtime does
            not fold it.
    """

    node: NodeProto
    initializers: tuple[TensorProto, ...]
    value_infos: tuple[ValueInfoProto, ...] = ()

    @property
    def payload(self) -> bytes:
        """The initializers' data, one after the other."""
        return b"".join(tensor.raw_data for tensor in self.initializers)


@dataclass(frozen=True)
class _Histogram:
    """Distinct values (as unsigned integers), how often each occurs, and where."""

    values: Values
    counts: Ints
    indices: NDArray[np.integer]

    @classmethod
    def of(cls, items: Values) -> "_Histogram":
        if items.itemsize <= 2:
            counts = np.bincount(items, minlength=1)
            used = np.flatnonzero(counts)
            where = np.zeros(len(counts), np.int32)
            where[used] = np.arange(len(used))
            return cls(_narrow(used, items.dtype), counts[used], where[items])
        values, indices, counts = np.unique(items, return_inverse=True, return_counts=True)
        return cls(values, counts, indices)

    @property
    def small(self) -> bool:
        return len(self.values) <= MAX_SYMBOLS


@dataclass(frozen=True)
class _Gaps:
    moves: _Histogram
    values: Values
    background: Values

    @cached_property
    def histogram(self) -> _Histogram:
        return _Histogram.of(self.values)

    @classmethod
    def of(cls, items: Values, background: int) -> "_Gaps":
        """How far to move on before each item that is not the background, at most 255."""
        places = np.flatnonzero(items != background)
        distance = np.diff(places, prepend=-1)
        fillers = (distance - 1) // MAX_GAP
        last = np.cumsum(fillers + 1) - 1
        moves = np.full(int(last[-1]) + 1, MAX_GAP, np.uint8)
        moves[last] = distance - MAX_GAP * fillers
        values = np.full(len(moves), background, items.dtype)
        values[last] = items[places]
        return cls(_Histogram.of(moves), values, items.dtype.type(background).reshape(1))


def _narrow(values: Ints, dtype: "np.dtype[np.unsignedinteger]") -> Values:
    return values.astype(dtype)


class Candidate:
    """A weight that may be coded, and what each kind would cost.

    Args:
        name: the weight's name.
        dtype: ONNX data type, one of :data:`DTYPES`.
        dims: its shape.
        data: as in ``raw_data``.
    """

    def __init__(self, name: str, dtype: int, dims: Sequence[int], data: bytes) -> None:
        self.name, self.dtype, self.dims = name, dtype, tuple(dims)
        self.items: Values = np.frombuffer(data, f"<u{width_of(dtype)}")
        self.raw_bytes = len(data)

    @cached_property
    def _histogram(self) -> _Histogram:
        return _Histogram.of(self.items)

    @cached_property
    def _gaps(self) -> _Gaps | None:
        """The sparse form, where at least half of the items are one value."""
        found = self._histogram
        most = int(found.counts.argmax())
        if not len(self.items) > found.counts[most] >= len(self.items) / 2:
            return None
        return _Gaps.of(self.items, int(found.values[most]))

    def costs(self, step: int) -> Iterator[tuple[str, int]]:
        """Kinds that can code this weight, and the bytes that each adds to the file.

        Args:
            step: bytes per segment.
        """
        if self.raw_bytes > MAX_BYTES:
            return
        found, width = self._histogram, self.items.itemsize
        table = (len(found.values) + 1) * width
        if found.small:
            yield self._cost("Huffman", streams.segments_bytes(found.counts, step) + table)
            if len(found.values) > 1:
                yield self._cost("Levels", streams.levels_bytes(found.counts, LIMIT) + table)
        bits = self._fixed_bits
        if bits:
            yield self._cost("Fixed", len(self.items) * bits // 8 + (1 << bits) * width)
        gaps = self._gaps
        if gaps is None:
            return
        moves, values = gaps.moves, gaps.values
        segments = streams.segments_bytes(moves.counts, step) + len(moves.values) + 1
        levels = 0
        if len(moves.values) > 1:
            levels = streams.levels_bytes(moves.counts, LIMIT) + len(moves.values) + 1
            yield self._cost("GapsLevels", levels + values.nbytes + width)
        yield self._cost("Gaps", segments + values.nbytes + width)
        inner = gaps.histogram
        if inner.small:
            table = (len(inner.values) + 1) * width
            yield self._cost(
                "Sparse", segments + streams.segments_bytes(inner.counts, step) + table
            )
            if levels and len(inner.values) > 1:
                yield self._cost(
                    "SparseLevels", levels + streams.levels_bytes(inner.counts, LIMIT) + table
                )

    @property
    def _fixed_bits(self) -> int:
        """Bits of an index where indices of one width fill whole bytes, else 0."""
        for bits in FIXED_WEIGHTS:
            if len(self._histogram.values) <= 1 << bits:
                return bits if len(self.items) and len(self.items) * bits % 8 == 0 else 0
        return 0

    def _cost(self, kind: str, payload: int) -> tuple[str, int]:
        values = 16 * INPUTS[kind] + 12 * (INPUTS[kind] % 4 == 0)
        return kind, payload + values + 44 + len(kind) + len(self.name) + 2 * len(self.dims)

    def levels_work(self, kind: str) -> int:
        """Symbols times levels that the functions for levels go through."""
        counts = [self._histogram.counts] if kind == "Levels" else [self._need_gaps.moves.counts]
        if kind == "SparseLevels":
            counts.append(self._need_gaps.histogram.counts)
        return sum(int(part.sum()) for part in counts) * LIMIT

    @property
    def _need_gaps(self) -> _Gaps:
        if self._gaps is None:
            raise ValueError(f"tensor '{self.name}' has no sparse form")
        return self._gaps

    def encode(
        self, kind: str, step: int, merge: bool, names: Iterator[str]
    ) -> tuple[PortableTensor, int]:
        """Code the weight.

        Args:
            kind: one of those that :meth:`costs` gives.
            step: bytes per segment.
            merge: whether to say how many codes can end within a nibble.
            names: unused names for initializers and further outputs.

        Returns:
            The coded weight, and the longest code in bits (0 where no function counts levels).
        """
        writer = _Writer(self.dtype, step, names)
        attributes: dict[str, list[int]] = {"shape": list(self.dims)}
        background = None
        if kind == "Fixed":
            attributes["weights"] = self._write_fixed(writer)
        elif kind in ("Huffman", "Levels"):
            writer.coded(kind == "Levels", self._histogram, self.dtype, None)
        else:
            gaps, level = self._need_gaps, kind in LEVEL_KINDS
            background = gaps.background
            writer.coded(level, gaps.moves, TensorProto.UINT8, None)
            if level:
                attributes["count"] = [len(gaps.values)]
            if kind.startswith("Gaps"):
                writer.tensor(self.dtype, gaps.values)
                writer.tensor(self.dtype, background)
            else:
                writer.coded(level, gaps.histogram, self.dtype, background)
        if merge:
            for suffix, slots in zip(("", "1"), reversed(writer.slots), strict=False):
                attributes["slots" + suffix] = [slots, 4 // slots, -1, 16]
        node = helper.make_node(
            kind,
            [tensor.name for tensor in writer.tensors],
            [self.name, *(info.name for info in writer.infos)],
            domain=DOMAIN,
            **attributes,
        )
        coded = PortableTensor(node, tuple(writer.tensors), tuple(writer.infos))
        return coded, writer.depth

    def _write_fixed(self, writer: "_Writer") -> list[int]:
        bits, found = self._fixed_bits, self._histogram
        indices = found.indices.reshape(-1, 8 // bits).astype(np.uint8)
        weights = np.array(FIXED_WEIGHTS[bits], np.uint8)
        packed = (indices * weights).sum(1, dtype=np.uint8)
        writer.tensor(TensorProto.UINT8, packed[:, None])
        table = np.zeros(1 << bits, self.items.dtype)
        table[: len(found.values)] = found.values
        writer.tensor(self.dtype, table)
        return list(FIXED_WEIGHTS[bits])


class _Writer:
    """Collects what one node reads, and the lengths of its further outputs."""

    def __init__(self, dtype: int, step: int, names: Iterator[str]) -> None:
        self.step, self.names, self.depth = step, names, 0
        self.tensors: list[TensorProto] = []
        self.infos: list[ValueInfoProto] = []
        self.slots: list[int] = []

    def tensor(self, dtype: int, data: NDArray[np.generic]) -> None:
        raw = np.ascontiguousarray(data, data.dtype.newbyteorder("<")).tobytes()
        self.tensors.append(
            TensorProto(name=next(self.names), dims=data.shape, data_type=dtype, raw_data=raw)
        )

    def coded(self, level: bool, found: _Histogram, dtype: int, background: Values | None) -> None:
        if level:
            levels = streams.encode_levels(found.indices, found.counts, LIMIT)
            order, self.depth = levels.order, max(self.depth, levels.depth)
            self.tensor(TensorProto.UINT8, levels.bits)
        else:
            segments = streams.encode_segments(found.indices, found.counts, self.step)
            order = segments.order
            wide = TensorProto.UINT8 if segments.starts.itemsize == 1 else TensorProto.UINT16
            self.tensor(TensorProto.UINT8, segments.stream)
            self.tensor(wide, segments.starts)
            self.tensor(TensorProto.UINT8, segments.tree)
            count = int(found.counts.sum())
            self.infos.append(helper.make_tensor_value_info(next(self.names), dtype, [count]))
            self.slots.append(segments.slots)
        first = np.zeros(1, found.values.dtype) if background is None else background
        self.tensor(dtype, np.concatenate([first, found.values[order]]))
