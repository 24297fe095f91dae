"""What a packed model spends where: :func:`inspect` and its records."""

from dataclasses import dataclass

import numpy as np
import onnx
from onnx import GraphProto

from mlflow_compress.packed.codec import backends
from mlflow_compress.packed.format import VERSION, bits_of, varint
from mlflow_compress.packed.onnx import graphs, tensors
from mlflow_compress.packed.opened import PackedWeight
from mlflow_compress.packed.opening import Source, open_packed

__all__ = ["PackedInfo", "TensorInfo", "inspect"]


@dataclass(frozen=True)
class TensorInfo:
    """One weight tensor of a packed model.

    Attributes:
        name: the tensor's name.
        shape: its dimensions.
        dtype: ONNX's name of its type, lower case (``float``, ``int8``, …).
        encoding: how it is coded, outermost first (``codebook+gaps+huffman``), or ``raw``.
        bytes_before: bytes of its data unpacked.
        bytes_after: everything the file spends on it: payload, tables, entry, name, checksums.
        entropy: Shannon entropy (order 0) of its values, bits per element.
        bits_spent: 8 * bytes_after / elements, bits per element.
        sparsity: share of elements that are exactly 0, 0 to 1.
        distinct: number of distinct values.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    encoding: str
    bytes_before: int
    bytes_after: int
    entropy: float
    bits_spent: float
    sparsity: float
    distinct: int

    @property
    def rate(self) -> float:
        """Compression rate: bytes before / bytes after."""
        return self.bytes_before / self.bytes_after if self.bytes_after else float("inf")

    @property
    def redundancy(self) -> float:
        """Bits per element beyond the entropy: the KL divergence of the data from the code."""
        return self.bits_spent - self.entropy


@dataclass(frozen=True)
class PackedInfo:
    """A packed model's sizes.

    Attributes:
        profile: ``compact`` or ``portable``.
        format_version: version of the format.
        file_bytes: size of the serialised model.
        overhead_bytes: what of it is not coded weights, codebooks or raw weights: graph, names,
            code tables, checksums.
        tensors: every weight tensor, those stored raw in the graph included.
    """

    profile: str
    format_version: int
    file_bytes: int
    overhead_bytes: int
    tensors: tuple[TensorInfo, ...]


def inspect(source: Source, *, max_bytes: int | None = None) -> PackedInfo:
    """Decode a packed model and say what each tensor costs.

    Raises:
        PackedFormatError: if the file is damaged, hostile or not packed.
        SourceNotFoundError: if there is no such file.
    """
    packed = open_packed(source, max_bytes)
    infos: list[TensorInfo] = []
    coded = 0
    for graph in graphs.graphs(packed.model.graph):
        for lost in packed.graphs:
            if lost.graph is graph:
                for weight in lost.weights:
                    info, size = _packed_info(weight)
                    infos.append(info)
                    coded += size
        raw, size = _raw_infos(graph)
        infos += raw
        coded += size
    return PackedInfo(
        packed.profile, VERSION, packed.file_bytes, packed.file_bytes - coded, tuple(infos)
    )


def _packed_info(weight: PackedWeight) -> tuple[TensorInfo, int]:
    """A packed weight's numbers, and what of its payload is coded data."""
    entry = weight.entry
    data = np.empty(entry.size, np.uint8)
    weight.decode_into(data)
    encoding, coded = weight.summary()
    name = len(weight.name.encode())
    spent = len(weight.payload) + 11 + sum(len(varint(dim)) for dim in entry.dims)
    spent += len(varint(entry.payload_bytes)) + len(varint(entry.position)) + len(entry.remainder)
    spent += 2 + name
    return _info(weight.name, entry.dims, entry.dtype, encoding, data, spent), coded


def _raw_infos(graph: GraphProto) -> tuple[list[TensorInfo], int]:
    """The weights that stayed in the graph."""
    found = [(tensor.name, tensor) for tensor in graph.initializer]
    for node in graph.node:
        tensor = tensors.constant_tensor(node)
        if tensor is not None:
            found.append((node.output[0], tensor))
    infos: list[TensorInfo] = []
    total = 0
    for name, tensor in found:
        raw = tensors.raw_data(tensor) if bits_of(tensor.data_type) is not None else None
        data = np.frombuffer(raw[0] if raw else b"", np.uint8)
        spent = tensor.ByteSize()
        if isinstance(name, bytes):  # of another writer: no text
            name = name.decode(errors="backslashreplace")
        infos.append(_info(name, tuple(tensor.dims), tensor.data_type, "raw", data, spent))
        total += len(data)
    return infos, total


def _elements(data: np.ndarray, dtype: int) -> np.ndarray:
    """One unsigned integer (or row of bytes) per element, for counting."""
    bits = bits_of(dtype) or 8
    if bits < 8:
        shifts = np.arange(0, 8, bits, dtype=np.uint8)
        return (data[:, None] >> shifts & np.uint8((1 << bits) - 1)).reshape(-1)
    return data.view(f"<u{bits // 8}") if bits <= 64 else data.view("V16")


def _info(
    name: str, dims: tuple[int, ...], dtype: int, encoding: str, data: np.ndarray, spent: int
) -> TensorInfo:
    count = tensors.element_count(dims)
    elements = _elements(data, dtype)[:count]
    entropy, distinct, zeros = 0.0, 0, 0
    if len(elements):
        counts = _counts(elements)
        shares = counts / counts.sum()
        entropy = abs(float((shares * np.log2(shares)).sum()))
        distinct = len(counts)
        zeros = count - int(np.count_nonzero(_values(elements, dtype)))
    return TensorInfo(
        name,
        dims,
        tensors.type_name(dtype),
        encoding,
        len(data),
        spent,
        entropy,
        8 * spent / count if count else 0.0,
        zeros / count if count else 0.0,
        distinct,
    )


def _counts(elements: np.ndarray) -> np.ndarray:
    """How often each distinct element occurs; sorts a copy, where np.unique needs several."""
    if elements.dtype == np.uint8:
        counts = backends.histogram(np.ascontiguousarray(elements))
        return counts[counts > 0]
    if elements.dtype.kind == "V":
        return np.unique(elements, return_counts=True)[1]
    ordered = np.sort(elements)
    ends = np.flatnonzero(ordered[1:] != ordered[:-1])
    return np.diff(np.concatenate([[-1], ends, [len(ordered) - 1]]))


def _values(elements: np.ndarray, dtype: int) -> np.ndarray:
    """Elements for counting zeros: -0.0 is zero too."""
    kinds = {onnx.TensorProto.FLOAT: "<f4", onnx.TensorProto.DOUBLE: "<f8"}
    if dtype in kinds:
        return elements.view(kinds[dtype])
    if dtype in (onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16):
        return elements << np.uint16(1)
    return elements.view("<c8" if elements.dtype.itemsize == 8 else elements.dtype)
