"""Opens a packed model, from a file, bytes or a ModelProto, and checks all but the payloads."""

import mmap
import zlib
from os import PathLike
from pathlib import Path
from typing import TypeAlias

from google.protobuf.message import DecodeError
from onnx import GraphProto, ModelProto, NodeProto, TensorProto

from mlflow_compress.errors import PackedFormatError, SourceNotFoundError
from mlflow_compress.packed.format import (
    DOMAIN,
    MAGIC,
    MAX_DIRECTORY,
    MAX_ENTRIES,
    OP_TYPE,
    Cursor,
    Directory,
    cap_of,
    read_directory,
    read_header,
    validate,
)
from mlflow_compress.packed.onnx import graphs, wire
from mlflow_compress.packed.onnx.outside import inside, plain_file
from mlflow_compress.packed.opened import Container, PackedGraph, PackedWeight

Source: TypeAlias = str | PathLike[str] | bytes | ModelProto


def map_file(path: Path) -> memoryview:
    """A view of a mapped file.

    Raises:
        SourceNotFoundError: if there is no such file.
        SourceError: if it is a device or a FIFO.
        PackedFormatError: if it is empty.
    """
    try:
        if path.exists() and not path.is_dir():
            plain_file(path, "model")
        with path.open("rb") as file:
            if path.stat().st_size == 0:
                raise PackedFormatError(f"{path}: the file is empty")
            return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    except (FileNotFoundError, IsADirectoryError) as error:
        raise SourceNotFoundError(f"no model file at '{path}'") from error


def read_bytes(source: str | PathLike[str] | bytes) -> memoryview:
    """The serialised model as a view: of a mapped file, or of the bytes."""
    if isinstance(source, bytes):
        return memoryview(source)
    return map_file(Path(source))


def parse_model(data: bytes | memoryview) -> ModelProto:
    """Parse a serialised model.

    Raises:
        PackedFormatError: if it is none.
    """
    try:
        return ModelProto.FromString(data if isinstance(data, bytes) else bytes(data))
    except DecodeError as error:
        raise PackedFormatError("file: not a serialised ONNX model (it does not parse)") from error


def open_packed(source: Source, max_bytes: int | None = None) -> Container:
    """Open a packed model and check everything but the payloads.

    Args:
        source: a path, the file's bytes, or the model (which is not changed).
        max_bytes: most bytes the weights may decode to; None for 256 MiB and 256 times the
            file's size.

    Raises:
        PackedFormatError: if it is damaged, hostile, or not packed.
        SourceNotFoundError: if there is no such file.
    """
    if isinstance(source, ModelProto):
        model = ModelProto()
        model.CopyFrom(source)
        return _open_model(model, None, max_bytes)
    parts = wire.split(read_bytes(source))
    if parts.blob is not None:
        return _open(parse_model(parts.rest), parts.blob, parts.size, max_bytes)
    folder = None if isinstance(source, bytes) else Path(source).parent
    return _open_model(parse_model(parts.rest), folder, max_bytes)


def _open_model(model: ModelProto, folder: Path | None, max_bytes: int | None) -> Container:
    """Open a parsed model: a portable one, or one whose blob is in memory or another file."""
    blob = _blob_of(model)
    if blob is None:
        size = model.ByteSize()
        from mlflow_compress.packed.portable.read import is_portable, open_model

        if not is_portable(model):
            raise PackedFormatError("file: not a packed model (it has no packed weights)")
        return open_model(model, size, cap_of(max_bytes, size))
    if blob.data_location == TensorProto.EXTERNAL:
        data = _external(blob, folder)
        blob.ClearField("data_location")
        blob.ClearField("external_data")
        size = model.ByteSize() + len(data)
    else:
        data = memoryview(blob.raw_data)
        blob.ClearField("raw_data")
        size = wire.size_with(model, blob, len(data))
    return _open(model, data, size, max_bytes)


def _blob_of(model: ModelProto) -> TensorProto | None:
    """The initializer that the first ``Packed`` node reads, or one that no node reads, if any."""
    for graph in graphs.graphs(model.graph):
        if graph.node and graph.node[0].domain == DOMAIN and graph.node[0].op_type == OP_TYPE:
            for tensor in model.graph.initializer:
                if tensor.name in graph.node[0].input:
                    return tensor
    if len(model.graph.initializer) and model.graph.initializer[-1].raw_data[:4] == MAGIC:
        return model.graph.initializer[-1]
    return None


def _external(blob: TensorProto, folder: Path | None) -> memoryview:
    """The blob's bytes in the file beside the model (``docs/format.md``, section 8)."""
    where = {entry.key: entry.value for entry in blob.external_data}
    name = where.get("location", "")
    if folder is None or not name or name in (".", "..") or Path(name).name != name:
        raise PackedFormatError(
            f"blob: its bytes are in the file '{name}', which must stand beside the model's file"
        )
    data = map_file(inside(folder, name, "blob"))
    if set(where) - {"location", "length"} or where.get("length") != str(len(data)):
        raise PackedFormatError(f"blob: the file '{name}' is not as long as the model says")
    return data


def _open(model: ModelProto, blob: memoryview, file_bytes: int, max_bytes: int | None) -> Container:
    if len(model.graph.initializer):
        # what onnx.load leaves behind when it reads external data is no change
        model.graph.initializer[-1].ClearField("data_location")
    rest_crc = zlib.crc32(model.SerializeToString(deterministic=True))
    directory, payloads = _read_blob(blob, rest_crc)
    found = _take_nodes(model)
    names = [name for _, node in found for name in node.output]
    validate(directory, names, cap_of(max_bytes, file_bytes))
    _restore_frame(model, directory, {node.input[0] for _, node in found}, len(blob))
    return Container(model, _weights(found, directory, payloads), "compact", file_bytes)


def _read_blob(blob: memoryview, rest_crc: int) -> tuple[Directory, memoryview]:
    cursor = Cursor(blob, "blob")
    stated_rest, directory_crc = read_header(cursor)
    data = cursor.take(cursor.varint(MAX_DIRECTORY))
    if zlib.crc32(data) != directory_crc:
        raise PackedFormatError("directory: damaged (crc32)")
    if stated_rest != rest_crc:
        raise PackedFormatError("graph: damaged or changed after packing (crc32)")
    directory = read_directory(data)
    payloads = blob[cursor.at :]
    if sum(entry.payload_bytes for entry in directory.entries) != len(payloads):
        raise PackedFormatError("blob: the payloads' lengths do not add up to its size")
    return directory, payloads


def _take_nodes(model: ModelProto) -> list[tuple[GraphProto, NodeProto]]:
    """Take the ``Packed`` nodes off their graphs and check that they follow each other."""
    found: list[tuple[GraphProto, NodeProto]] = []
    at = 0
    for graph in list(graphs.graphs(model.graph)):
        if not graph.node or graph.node[0].domain != DOMAIN:
            continue
        node = NodeProto()
        node.CopyFrom(graph.node[0])
        stated = node.attribute[0].i if len(node.attribute) else 0
        named = [attribute.name for attribute in node.attribute]
        if (
            node.op_type != OP_TYPE
            or len(node.input) != 1
            or named not in ([], ["at"])
            or stated != at
        ):
            raise PackedFormatError(f"graph '{graph.name}': unknown node '{node.op_type}'")
        if len(set(node.output)) != len(node.output) or "" in node.output:
            raise PackedFormatError(f"graph '{graph.name}': two packed weights of one name")
        del graph.node[0]
        at += len(node.output)
        if at > MAX_ENTRIES:
            raise PackedFormatError(f"graph '{graph.name}': more than {MAX_ENTRIES} weights")
        found.append((graph, node))
    return found


def _restore_frame(
    model: ModelProto, directory: Directory, blobs: set[str], blob_bytes: int
) -> None:
    """Drop the blob and the import, and restore ``ir_version``."""
    initializers = model.graph.initializer
    if not len(initializers) or blobs - {initializers[-1].name}:
        raise PackedFormatError("graph: the blob is not the last initializer")
    if initializers[-1].data_type != TensorProto.UINT8 or list(initializers[-1].dims) != [
        blob_bytes
    ]:
        raise PackedFormatError("graph: the blob is not of type uint8 or not of its stated size")
    del initializers[-1]
    if not directory.had_import:
        if not len(model.opset_import) or model.opset_import[-1].domain != DOMAIN:
            raise PackedFormatError(f"graph: the last import is not '{DOMAIN}'")
        del model.opset_import[-1]
    directory.restore_ir_version(model)


def _weights(
    found: list[tuple[GraphProto, NodeProto]], directory: Directory, payloads: memoryview
) -> list[PackedGraph]:
    out: list[PackedGraph] = []
    number = at = 0
    for graph, node in found:
        weights: list[PackedWeight] = []
        for name in node.output:
            entry = directory.entries[number]
            weights.append(PackedWeight(name, entry, payloads[at : at + entry.payload_bytes]))
            at += entry.payload_bytes
            number += 1
        out.append(PackedGraph(graph, weights))
    return out
