"""Reads portable files natively: takes the model apart and decodes the weights.

``docs/format.md``, section 7. The functions in the file are not run, only what they read is.
"""

import base64
import binascii
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import AttributeProto, ModelProto, NodeProto, TensorProto

from mlflow_compress.errors import PackedFormatError
from mlflow_compress.packed.codec import backends
from mlflow_compress.packed.codec.trees import MAX_SYMBOLS
from mlflow_compress.packed.format import (
    DEFAULT_CAP,
    DOMAIN,
    MAX_DIRECTORY,
    Cursor,
    Directory,
    read_directory,
    read_header,
    validate,
    width_of,
)
from mlflow_compress.packed.opened import Container, PackedGraph, PackedWeight
from mlflow_compress.packed.portable.functions import (
    HELPERS,
    LEVEL_KINDS,
    SEGMENT_KINDS,
    STEPS,
)
from mlflow_compress.packed.portable.joint import PREFIX, fits, is_prefix
from mlflow_compress.packed.portable.tensor import DTYPES, FIXED_WEIGHTS, INPUTS, LIMIT
from mlflow_compress.packed.portable.write import METADATA, rest_crc

__all__ = ["PortableWeight", "is_portable", "open_model"]

ENCODINGS = {
    "Fixed": "codebook+fixed",
    "Huffman": "codebook+huffman",
    "Levels": "codebook+huffman",
    "Sparse": "sparse+codebook+huffman",
    "SparseLevels": "sparse+codebook+huffman",
    "Gaps": "sparse+huffman",
    "GapsLevels": "sparse+huffman",
}

Items = NDArray[np.unsignedinteger]


def is_portable(model: ModelProto) -> bool:
    """Whether a model carries the directory of a portable file."""
    return any(entry.key == METADATA for entry in model.metadata_props)


@dataclass(frozen=True)
class PortableWeight(PackedWeight):
    """A weight of a portable file, nothing decoded.

    Attributes:
        node: the call that computes it.
        tensors: what the node reads.
    """

    node: NodeProto
    tensors: tuple[TensorProto, ...]

    def summary(self) -> tuple[str, int]:
        """How it is coded, outermost first, and what of the payload is coded data or values."""
        trees = sum(len(tensor.raw_data) for tensor in _of_trees(self.node, self.tensors))
        return ENCODINGS[self.node.op_type], len(self.payload) - trees

    def decode_into(self, out: NDArray[np.uint8]) -> None:
        """Decode into a uint8 array of ``entry.size`` bytes and check both checksums.

        Raises:
            PackedFormatError: naming the tensor and the cause.
        """
        self.check_payload()
        _Decoder(self).decode(out.view(f"<u{width_of(self.entry.dtype)}"))
        if backends.crc32(out.data) != self.entry.decoded_crc:
            raise PackedFormatError(f"tensor '{self.name}': decoded bytes are wrong (crc32)")


def _of_trees(node: NodeProto, tensors: Sequence[TensorProto]) -> Iterator[TensorProto]:
    """Segment starts and code trees; those of levels stand with the data and are not told apart."""
    if node.op_type in SEGMENT_KINDS:
        for first in range(0, len(tensors) - 3, 4):
            yield from tensors[first + 1 : first + 3]


class _Decoder:
    """Reads one node's tensors in order, checking each against what must be there."""

    def __init__(self, weight: PortableWeight) -> None:
        self.weight, self.what, self.at = weight, weight.name, 0
        self.dtype, self.count = weight.entry.dtype, prod(weight.entry.dims)
        self.attributes: Mapping[str, AttributeProto] = {
            attribute.name: attribute for attribute in weight.node.attribute
        }
        if self.dtype not in DTYPES:
            raise self._wrong(f"data type {self.dtype} is not one of the portable profile")
        if self._ints("shape") != list(weight.entry.dims):
            raise self._wrong("its shape is not the directory's")

    def decode(self, out: Items) -> None:
        """Decode into an array of the weight's items."""
        kind = self.weight.node.op_type
        if kind == "Fixed":
            self._fixed(out)
        elif kind in ("Huffman", "Levels"):
            self._coded(self.dtype, out)
        else:
            self._sparse(kind, out)

    def _sparse(self, kind: str, out: Items) -> None:
        count = self._ints("count")[0] if kind in LEVEL_KINDS else self._place("to", "at")
        if not 0 < count <= self.count:
            raise self._wrong(f"{count} items in {self.count} places")
        moves = np.empty(count, np.uint8)
        self._coded(TensorProto.UINT8, moves)
        if kind in ("Gaps", "GapsLevels"):
            values = self._tensor(self.dtype)
            background = self._tensor(self.dtype)
            if values.shape != (count,) or background.shape != (1,):
                raise self._wrong("not one value for each place")
        else:
            values = np.empty(count, out.dtype)
            if kind == "Sparse" and self._place("end", "to") != count:
                raise self._wrong("not one value for each place")
            background = self._coded(self.dtype, values)
        backends.portable_scatter(moves, values, background, out, self.what)

    def _fixed(self, out: Items) -> None:
        packed, table = self._tensor(TensorProto.UINT8), self._tensor(self.dtype)
        weights = self._ints("weights")
        bits = 8 // len(weights) if weights in FIXED_WEIGHTS.values() else 0
        if not bits or table.shape != (1 << bits,) or packed.size * 8 != self.count * bits:
            raise self._wrong("indices and values do not fit each other")
        of_byte = table[np.arange(256)[:, None] // weights % len(table)]
        np.take(of_byte, packed.reshape(-1), axis=0, out=out.reshape(-1, len(weights)))

    def _coded(self, dtype: int, out: Items) -> Items:
        """Decode into ``out``; return what stands before the symbols' values, the background."""
        if self.weight.node.op_type in LEVEL_KINDS:
            bits, symbols = self._tensor(TensorProto.UINT8), self._symbols(dtype)
            if len(symbols) < 3:
                raise self._wrong("one symbol has no code in levels")
            backends.portable_levels(bits, symbols[1:], LIMIT, out, self.what)
            return symbols[:1]
        stream, starts = self._tensor(TensorProto.UINT8), self._tensor(None)
        tree, symbols = self._tensor(TensorProto.UINT8), self._symbols(dtype)
        if stream.ndim != 2 or not stream.size or starts.shape != (len(stream),):
            raise self._wrong("stream and segment starts do not fit each other")
        if stream.shape[1] not in STEPS:
            raise self._wrong(f"segments of {stream.shape[1]} bytes")
        if len(out) > 8 * stream.size:
            raise self._wrong(f"{len(out)} symbols in {stream.size} bytes")
        backends.portable_segments(stream, starts, tree, symbols[1:], out, self.what)
        return symbols[:1]

    def _symbols(self, dtype: int) -> Items:
        symbols = self._tensor(dtype)
        if symbols.ndim != 1 or not 2 <= len(symbols) <= MAX_SYMBOLS + 1:
            raise self._wrong(f"{symbols.size} symbols")
        return symbols

    def _tensor(self, dtype: int | None) -> Items:
        tensor = self.weight.tensors[self.at]
        self.at += 1
        narrow = (TensorProto.UINT8, TensorProto.UINT16)
        if tensor.data_type not in (narrow if dtype is None else (dtype,)):
            raise self._wrong(f"initializer '{tensor.name}' has data type {tensor.data_type}")
        width = width_of(tensor.data_type)
        if any(dim < 0 for dim in tensor.dims) or prod(tensor.dims) * width != len(tensor.raw_data):
            raise self._wrong(f"initializer '{tensor.name}' has not as many bytes as its shape")
        return np.frombuffer(tensor.raw_data, f"<u{width}").reshape(tuple(tensor.dims))

    def _ints(self, name: str) -> list[int]:
        if name not in self.attributes:
            raise self._wrong(f"attribute '{name}' is missing")
        values = list(self.attributes[name].ints)
        return values or ([0] if name in ("count", "at", "to", "end") else values)

    def _place(self, name: str, before: str) -> int:
        """How many symbols a stream has, by the places where it and the next one begin."""
        return self._ints(name)[0] - self._ints(before)[0]

    def _wrong(self, cause: str) -> PackedFormatError:
        return PackedFormatError(f"tensor '{self.what}': {cause}")


def open_model(model: ModelProto, file_bytes: int, max_bytes: int = DEFAULT_CAP) -> Container:
    """Take a portable model apart and check everything but the payloads.

    Args:
        model: the packed model; it is changed into the model without its weights.
        file_bytes: size of its serialisation.
        max_bytes: most bytes the weights may decode to.

    Raises:
        PackedFormatError: if it is damaged or hostile.
    """
    crc, directory = _directory(model)
    graph = model.graph
    count = len(directory.entries)
    first = PREFIX if is_prefix(graph.node[:PREFIX]) else 0
    decoded = [graph.node[first - 1].output[0]] if first else []
    nodes = [NodeProto.FromString(node.SerializeToString()) for node in graph.node[first:][:count]]
    for node in nodes:
        if node.domain != DOMAIN or node.op_type not in INPUTS or len(node.output) != 1:
            raise PackedFormatError(f"graph: unknown node '{node.op_type}' among the weights'")
        if node.op_type in SEGMENT_KINDS and (not first or node.input[:1] != decoded):
            raise PackedFormatError(f"graph: node '{node.op_type}' reads no streams")
        if len(_read_by(node)) != INPUTS[node.op_type]:
            raise PackedFormatError(f"graph: node '{node.op_type}' has {len(node.input)} inputs")
    behind = first + count
    if len(nodes) != count or (len(graph.node) > behind and graph.node[behind].domain == DOMAIN):
        raise PackedFormatError(f"graph: not as many weights as the directory's {count} entries")
    validate(directory, [node.output[0] for node in nodes], max_bytes)
    inputs = [name for node in nodes for name in _read_by(node)]
    if rest_crc(model, len(inputs)) != crc:
        raise PackedFormatError("graph: damaged or changed after packing (crc32)")
    tensors = _pop(graph.initializer, inputs, "initializers")
    _check_streams(graph.node[:first], nodes, tensors, directory)
    _pop(graph.value_info, decoded, "value_info")
    del graph.node[:behind]
    weights: list[PackedWeight] = list(_weights(nodes, iter(tensors), directory))
    _restore_frame(model, directory)
    return Container(model, [PackedGraph(graph, weights)], "portable", file_bytes)


def _check_streams(
    prefix: Sequence[NodeProto],
    nodes: Sequence[NodeProto],
    tensors: Sequence[TensorProto],
    directory: Directory,
) -> None:
    """Check that what the functions are told of the streams is what this reader takes them for."""
    streams, place, at = [], 0, 0
    for node, entry in zip(nodes, directory.entries, strict=True):
        read = tensors[place : place + INPUTS[node.op_type]]
        place += len(read)
        if node.op_type not in SEGMENT_KINDS:
            continue
        streams += [read[i : i + 4] for i in range(0, len(read) - 3, 4)]
        said = {a.name: (list(a.ints) or [0]) for a in node.attribute}
        ends = [name for name in ("to", "end") if name in said]
        if said.get("at") != [at]:
            raise PackedFormatError(f"tensor '{node.output[0]}': its streams do not begin at {at}")
        at = said[ends[-1]][0] if ends else at + prod(entry.dims)
    if any(not read[1].dims or not read[3].dims for read in streams):
        raise PackedFormatError("graph: a stream without segments")
    if prefix and not fits(prefix, streams):
        raise PackedFormatError("graph: the streams that are decoded are not those of the weights")


def _directory(model: ModelProto) -> tuple[int, Directory]:
    """Take the directory off the metadata."""
    if not is_portable(model) or model.metadata_props[-1].key != METADATA:
        raise PackedFormatError(f"file: metadata '{METADATA}' is not the last entry")
    text = model.metadata_props[-1].value
    if len(text) > MAX_DIRECTORY * 4 // 3 + 64:
        raise PackedFormatError(f"directory: {len(text)} characters are above the limit")
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise PackedFormatError("directory: not base64") from error
    cursor = Cursor(data, "directory")
    crc, directory_crc = read_header(cursor)
    if zlib.crc32(data[cursor.at :]) != directory_crc:
        raise PackedFormatError("directory: damaged (crc32)")
    del model.metadata_props[-1]
    return crc, read_directory(data[cursor.at :])


def _pop(repeated: Any, names: Sequence[str], what: str) -> list[Any]:
    """Take the last messages off a repeated field; their names must be these."""
    first = len(repeated) - len(names)
    taken = list(repeated[max(first, 0) :])
    if first < 0 or [message.name for message in taken] != list(names):
        raise PackedFormatError(f"graph: the last {what} are not those of the packed weights")
    del repeated[first:]
    return taken


def _weights(
    nodes: Sequence[NodeProto],
    tensors: Iterator[TensorProto],
    directory: Directory,
) -> Iterator[PortableWeight]:
    for node, entry in zip(nodes, directory.entries, strict=True):
        read = tuple(next(tensors) for _ in _read_by(node))
        payload = b"".join(tensor.raw_data for tensor in read)
        name = node.output[0]
        if len(payload) != entry.payload_bytes:
            raise PackedFormatError(
                f"tensor '{name}': {len(payload)} packed bytes, not {entry.payload_bytes}"
            )
        yield PortableWeight(name, entry, memoryview(payload), node, read)


def _read_by(node: NodeProto) -> Sequence[str]:
    """The initializers that a node reads."""
    return node.input[1:] if node.op_type in SEGMENT_KINDS else node.input


def _restore_frame(model: ModelProto, directory: Directory) -> None:
    """Drop functions and imports that packing added, and restore ``ir_version``."""
    while model.functions and model.functions[-1].domain in (DOMAIN, HELPERS):
        del model.functions[-1]
    for domain in (HELPERS, DOMAIN):
        if model.opset_import and model.opset_import[-1].domain == domain:
            del model.opset_import[-1]
    directory.restore_ir_version(model)
