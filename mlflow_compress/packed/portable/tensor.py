"""One weight of the portable profile: what each kind costs, its node, and back.

``docs/format.md``, section 7, describes the kinds.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, helper

from mlflow_compress.packed.codec import streams
from mlflow_compress.packed.codec.trees import MAX_SYMBOLS, Ints
from mlflow_compress.packed.format import DOMAIN, width_of
from mlflow_compress.packed.portable.functions import LEVEL_KINDS
from mlflow_compress.packed.portable.joint import Joint

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
_PART = 1 << 20
# ONNX Runtime folds outputs of up to 1 GiB.
MAX_BYTES = 1 << 26
FIXED_WEIGHTS = {1: [128, 64, 32, 16, 8, 4, 2, 1], 2: [64, 16, 4, 1], 4: [16, 1]}

LIMIT = 12  # longest code of the kinds coded in levels
INPUTS = {  # initializers that a node reads; nodes of SEGMENT_KINDS read what all streams give too
    "Fixed": 2,
    "Huffman": 4,
    "Levels": 2,
    "Sparse": 8,
    "SparseLevels": 4,
    "Gaps": 6,
    "GapsLevels": 4,
}

STREAMS_OF = {"Huffman": 1, "Sparse": 2, "Gaps": 1}

Values = NDArray[np.unsignedinteger]


@dataclass(frozen=True)
class PortableTensor:
    """A weight as it stands in the file.

    Attributes:
        node: the call that computes it; of :data:`SEGMENT_KINDS`, without its first input.
        initializers: what the node reads.
    """

    node: NodeProto
    initializers: tuple[TensorProto, ...]

    @property
    def payload(self) -> bytes:
        """The initializers' data, one after the other."""
        return b"".join(tensor.raw_data for tensor in self.initializers)


@dataclass(frozen=True)
class _Histogram:
    """Distinct values, ascending as unsigned integers, and how often each occurs."""

    values: Values
    counts: Ints

    @classmethod
    def of(cls, items: Values) -> "_Histogram | None":
        """The histogram, or None if there are more values than a code may have."""
        if items.itemsize <= 2:
            every = sum(
                (np.bincount(part, minlength=1 << 8 * items.itemsize) for part in _parts(items)),
                np.zeros(1 << 8 * items.itemsize, np.int64),
            )
            values = _narrow(np.flatnonzero(every), items.dtype)
            return cls(values, every[values]) if len(values) <= MAX_SYMBOLS else None
        if len(np.unique(_sample(items))) > MAX_SYMBOLS:
            return None
        values, counts = items[:0], np.zeros(0, np.int64)
        for part in _parts(items):
            found, times = np.unique(part, return_counts=True)
            values, places = np.unique(np.concatenate([values, found]), return_inverse=True)
            if len(values) > MAX_SYMBOLS:
                return None
            both = np.concatenate([counts, times])
            counts = np.bincount(places, weights=both, minlength=len(values)).astype(np.int64)
        return cls(values, counts)

    def indices(self, items: Values) -> NDArray[np.uint16]:
        """For each item, which of the values it is."""
        out = np.empty(len(items), np.uint16)
        where = np.zeros(0, np.uint16)
        if items.itemsize <= 2:
            where = np.zeros(int(self.values[-1]) + 1, np.uint16)
            where[self.values] = np.arange(len(self.values))
        for number, part in enumerate(_parts(items)):
            found = where[part] if len(where) else np.searchsorted(self.values, part)
            out[number * _PART :][: len(part)] = found
        return out


def _parts(items: Values) -> Iterator[Values]:
    """Parts small enough that what numpy makes of them takes little memory."""
    return (items[first : first + _PART] for first in range(0, len(items), _PART))


def _sample(items: Values) -> Values:
    """Some 65,536 items from all over."""
    return items[:: max(1, len(items) >> 16)]


def _background(items: Values) -> int | None:
    """The value of at least half of the items, but not of all, if there is one."""
    values, counts = np.unique(_sample(items), return_counts=True)
    value = values[counts.argmax()]
    found = int(np.count_nonzero(items == value))
    return int(value) if len(items) / 2 <= found < len(items) else None


@dataclass(frozen=True)
class _Gaps:
    """How far to move on before each value is stored, at most 255, over the background."""

    moves: NDArray[np.uint8]
    values: Values
    background: Values

    @cached_property
    def of_moves(self) -> _Histogram:
        counts = np.bincount(self.moves, minlength=256)
        used = np.flatnonzero(counts)
        return _Histogram(_narrow(used, self.moves.dtype), counts[used])

    @cached_property
    def of_values(self) -> _Histogram | None:
        return _Histogram.of(self.values)

    @classmethod
    def of(cls, items: Values, background: int) -> "_Gaps":
        moves: list[NDArray[np.uint8]] = []
        values: list[Values] = []
        before = -1
        for number, part in enumerate(_parts(items)):
            here = np.flatnonzero(part != background)
            if not len(here):
                continue
            places = here + number * _PART
            distance = np.diff(places, prepend=before)
            before = int(places[-1])
            fillers = (distance - 1) // MAX_GAP
            last = np.cumsum(fillers + 1) - 1
            moves.append(np.full(int(last[-1]) + 1, MAX_GAP, np.uint8))
            moves[-1][last] = distance - MAX_GAP * fillers
            values.append(np.full(len(moves[-1]), background, items.dtype))
            values[-1][last] = part[here]
        return cls(
            np.concatenate(moves), np.concatenate(values), np.full(1, background, items.dtype)
        )


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
    def _histogram(self) -> _Histogram | None:
        return _Histogram.of(self.items)

    @cached_property
    def _gaps(self) -> _Gaps | None:
        background = _background(self.items)
        return None if background is None else _Gaps.of(self.items, background)

    def costs(self, step: int) -> Iterator[tuple[str, int]]:
        """Kinds that can code this weight, and the bytes that each adds to the file.

        Args:
            step: bytes per segment.
        """
        if not 0 < self.raw_bytes <= MAX_BYTES:
            return
        width = self.items.itemsize
        if self._histogram is not None:
            for level, size in _coded_bytes(self._histogram, width, step):
                yield self._cost("Levels" if level else "Huffman", size)
        bits = self._fixed_bits
        if bits:
            yield self._cost("Fixed", len(self.items) * bits // 8 + (1 << bits) * width)
        gaps = self._gaps
        if gaps is None:
            return
        values = {} if gaps.of_values is None else dict(_coded_bytes(gaps.of_values, width, step))
        for level, size in _coded_bytes(gaps.of_moves, 1, step):
            suffix = "Levels" if level else ""
            yield self._cost(f"Gaps{suffix}", size + gaps.values.nbytes + width)
            if level in values:
                yield self._cost(f"Sparse{suffix}", size + values[level])

    @property
    def _fixed_bits(self) -> int:
        """Bits of an index where indices of one width fill whole bytes, else 0."""
        found = self._histogram
        for bits in FIXED_WEIGHTS if found is not None else ():
            if found is not None and len(found.values) <= 1 << bits:
                return bits if len(self.items) * bits % 8 == 0 else 0
        return 0

    def _cost(self, kind: str, payload: int) -> tuple[str, int]:
        """Add what frames a payload: node, initializers, value_info and directory entry."""
        frame = 96 + 18 * INPUTS[kind] + 45 * STREAMS_OF.get(kind, 0) + len(kind)
        return kind, payload + frame + 2 * len(self.name) + 6 * len(self.dims)

    def transient(self, kind: str) -> tuple[int, int]:
        """Memory that decoding takes while a session is created, and bytes of the streams.

        Args:
            kind: one of those that :meth:`costs` gives.
        """
        weight = 2 * self.raw_bytes
        if kind == "Fixed":
            return weight + 24 * len(self.items), 0
        if kind in LEVEL_KINDS:
            return weight + 56 * self.levels_work(kind), 0
        if kind == "Huffman":
            taken, stream = streams.segments_transient(_present(self._histogram).counts)
            return weight + taken, stream
        gaps = self._sparse
        taken, stream = streams.segments_transient(gaps.of_moves.counts)
        taken += weight + self.raw_bytes + 24 * len(gaps.moves)
        if kind == "Sparse":
            of_values, more = streams.segments_transient(_present(gaps.of_values).counts)
            taken, stream = taken + of_values, stream + more
        return taken, stream

    def slots(self, kind: str) -> int:
        """How many codes can end within a nibble of the weight's streams; 0 without streams."""
        counts = []
        if kind == "Huffman":
            counts.append(_present(self._histogram).counts)
        elif kind in STREAMS_OF:
            counts.append(self._sparse.of_moves.counts)
            if kind == "Sparse":
                counts.append(_present(self._sparse.of_values).counts)
        return max(map(streams.slots_of, counts), default=0)

    def levels_work(self, kind: str) -> int:
        """Symbols times levels that the functions for levels go through."""
        if kind == "Levels":
            return len(self.items) * LIMIT
        moves = len(self._sparse.moves)
        return (2 if kind == "SparseLevels" else 1) * moves * LIMIT

    @property
    def _sparse(self) -> _Gaps:
        if self._gaps is None:
            raise ValueError(f"tensor '{self.name}' has no sparse form")
        return self._gaps

    def encode(
        self, kind: str, step: int, joint: Joint, names: Iterator[str]
    ) -> tuple[PortableTensor, int]:
        """Code the weight.

        Args:
            kind: one of those that :meth:`costs` gives.
            step: bytes per segment.
            joint: gets the weight's streams.
            names: unused names for initializers.

        Returns:
            The coded weight, and the longest code in bits (0 where no function counts levels).
        """
        writer = _Writer(step, joint, names)
        attributes: dict[str, list[int]] = {"shape": list(self.dims)}
        if kind == "Fixed":
            attributes["weights"] = self._write_fixed(writer)
        elif kind in ("Huffman", "Levels"):
            writer.coded(kind == "Levels", self.dtype, self._histogram, self.items)
        else:
            gaps, level = self._sparse, kind in LEVEL_KINDS
            writer.coded(level, TensorProto.UINT8, gaps.of_moves, gaps.moves)
            if level:
                attributes["count"] = [len(gaps.values)]
            if kind.startswith("Gaps"):
                writer.tensor(self.dtype, gaps.values)
                writer.tensor(self.dtype, gaps.background)
            else:
                writer.coded(level, self.dtype, gaps.of_values, gaps.values, gaps.background)
        for name, place in zip(("at", "to", "end"), writer.places, strict=False):
            attributes[name] = [place]
        node = helper.make_node(
            kind,
            [tensor.name for tensor in writer.tensors],
            [self.name],
            domain=DOMAIN,
            **attributes,
        )
        return PortableTensor(node, tuple(writer.tensors)), writer.depth

    def _write_fixed(self, writer: "_Writer") -> list[int]:
        bits, found = self._fixed_bits, _present(self._histogram)
        indices = found.indices(self.items).reshape(-1, 8 // bits).astype(np.uint8)
        weights = np.array(FIXED_WEIGHTS[bits], np.uint8)
        packed = (indices * weights).sum(1, dtype=np.uint8)
        writer.tensor(TensorProto.UINT8, packed[:, None])
        table = np.zeros(1 << bits, self.items.dtype)
        table[: len(found.values)] = found.values
        writer.tensor(self.dtype, table)
        return list(FIXED_WEIGHTS[bits])


class _Writer:
    """Collects what one node reads, and where its symbols are among those of all streams."""

    def __init__(self, step: int, joint: Joint, names: Iterator[str]) -> None:
        self.step, self.joint, self.names, self.depth = step, joint, names, 0
        self.tensors: list[TensorProto] = []
        self.places: list[int] = []

    def tensor(self, dtype: int, data: NDArray[np.generic]) -> None:
        raw = np.ascontiguousarray(data, data.dtype.newbyteorder("<")).tobytes()
        self.tensors.append(
            TensorProto(name=next(self.names), dims=data.shape, data_type=dtype, raw_data=raw)
        )

    def coded(
        self,
        level: bool,
        dtype: int,
        found: _Histogram | None,
        items: Values,
        background: Values | None = None,
    ) -> None:
        """Code items as levels or segments; ``background`` (or 0) stands for nothing."""
        found = _present(found)
        indices = found.indices(items)
        if level:
            levels = streams.encode_levels(indices, found.counts, LIMIT)
            order, self.depth = levels.order, max(self.depth, levels.depth)
            self.tensor(TensorProto.UINT8, levels.bits)
        else:
            segments = streams.encode_segments(indices, found.counts, self.step)
            order = segments.order
            wide = TensorProto.UINT8 if segments.starts.itemsize == 1 else TensorProto.UINT16
            self.tensor(TensorProto.UINT8, segments.stream)
            self.tensor(wide, segments.starts)
            self.tensor(TensorProto.UINT8, segments.tree)
            self.places = self.places or [self.joint.symbols]
            self.places.append(self.joint.add(segments, len(items), self.tensors[-3:]))
        first = np.zeros(1, items.dtype) if background is None else background
        self.tensor(dtype, np.concatenate([first, found.values[order]]))


def _present(found: _Histogram | None) -> _Histogram:
    if found is None:
        raise ValueError("too many values for a code")
    return found


def _coded_bytes(found: _Histogram, width: int, step: int) -> Iterator[tuple[bool, int]]:
    """Whether in levels, and bytes of all but the framing, for each way to code a histogram."""
    table = (len(found.values) + 1) * width
    yield False, streams.segments_bytes(found.counts, step) + table
    if len(found.values) > 1:
        yield True, streams.levels_bytes(found.counts, LIMIT) + table
