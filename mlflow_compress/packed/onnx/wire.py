"""Finds the blob in a serialised model without parsing its megabytes (protobuf wire format)."""

from collections.abc import Iterator
from dataclasses import dataclass

from onnx import ModelProto, TensorProto

from mlflow_compress.errors import PackedFormatError
from mlflow_compress.packed.format import DOMAIN, MAGIC, varint

_MODEL_GRAPH, _MODEL_OPSET, _OPSET_DOMAIN = 7, 8, 1
_GRAPH_INITIALIZER, _TENSOR_RAW = 5, 9


@dataclass(frozen=True)
class Field:
    """One field on the wire: its number and where its tag, length and value stand."""

    number: int
    kind: int
    tag: int
    length: int
    value: int
    end: int


@dataclass(frozen=True)
class Split:
    """A serialised model cut in two: everything but the blob's bytes, and these if they are there.

    ``size`` is what it was before.
    """

    rest: bytes
    blob: memoryview | None
    size: int


def _varint_at(data: memoryview, at: int, end: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if at >= end:
            break
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
    raise PackedFormatError("file: not a serialised ONNX model (a number is cut off)")


def fields(data: memoryview, at: int, end: int) -> Iterator[Field]:
    """The fields of a message between two offsets.

    Raises:
        PackedFormatError: if the bytes are not a protobuf message.
    """
    while at < end:
        tag = at
        key, at = _varint_at(data, at, end)
        length, kind = at, key & 7
        if kind == 0:
            _, after = _varint_at(data, at, end)
            value = at
        elif kind == 2:
            size, value = _varint_at(data, at, end)
            after = value + size
        elif kind in (1, 5):
            value, after = at, at + (8 if kind == 1 else 4)
        else:
            raise PackedFormatError(f"file: not a serialised ONNX model (wire type {kind})")
        if after > end:
            raise PackedFormatError(
                f"file: cut off: a field ends at byte {after}, the data end at {end}"
            )
        yield Field(key >> 3, kind, tag, length, value, after)
        at = after


def imports_domain(data: memoryview) -> bool:
    """Whether a serialised model imports the packed models' domain."""
    for field in fields(data, 0, len(data)):
        if field.number == _MODEL_OPSET and field.kind == 2:
            for inner in fields(data, field.value, field.end):
                name = data[inner.value : inner.end]
                if inner.number == _OPSET_DOMAIN and inner.kind == 2 and name == DOMAIN.encode():
                    return True
    return False


def size_with(model: ModelProto, blob: TensorProto, more: int) -> int:
    """Serialised size of a model if its tensor ``blob`` had ``more`` bytes of ``raw_data``."""
    added, inner = 1 + len(varint(more)) + more, blob.ByteSize()
    growth = added + len(varint(inner + added)) - len(varint(inner))
    outer = model.graph.ByteSize()
    return model.ByteSize() + growth + len(varint(outer + growth)) - len(varint(outer))


def _find_blob(data: memoryview) -> tuple[Field, Field, Field] | None:
    """The graph, the tensor and the ``raw_data`` of the last initializer that is a blob."""
    found: tuple[Field, Field, Field] | None = None
    for graph in fields(data, 0, len(data)):
        if graph.number != _MODEL_GRAPH or graph.kind != 2:
            continue
        for tensor in fields(data, graph.value, graph.end):
            if tensor.number != _GRAPH_INITIALIZER or tensor.kind != 2:
                continue
            for raw in fields(data, tensor.value, tensor.end):
                magic = data[raw.value : raw.value + len(MAGIC)]
                if raw.number == _TENSOR_RAW and raw.kind == 2 and magic == MAGIC:
                    found = graph, tensor, raw
    return found


def split(data: memoryview) -> Split:
    """Cut the blob's bytes out of a serialised model.

    Raises:
        PackedFormatError: if it is no serialised model.
    """
    found = _find_blob(data)
    if found is None:
        return Split(bytes(data), None, len(data))
    graph, tensor, raw = found
    tensor_size = tensor.end - tensor.value - (raw.end - raw.tag)
    tensor_head = bytes(data[tensor.tag : tensor.length]) + varint(tensor_size)
    gone = (tensor.end - tensor.tag) - (len(tensor_head) + tensor_size)
    rest = b"".join(
        [
            data[: graph.length],
            varint(graph.end - graph.value - gone),
            data[graph.value : tensor.tag],
            tensor_head,
            data[tensor.value : raw.tag],
            data[raw.end :],
        ]
    )
    return Split(rest, data[raw.value : raw.end], len(data))


def around(data: bytes, size: int) -> tuple[bytes, bytes]:
    """What stands before and after ``size`` bytes of ``raw_data`` in a model that gets them.

    Args:
        data: a serialised model whose last initializer has no ``raw_data``, nor fields after it.
        size: how many bytes it gets.
    """
    view = memoryview(data)
    graph = next(field for field in fields(view, 0, len(data)) if field.number == _MODEL_GRAPH)
    inner = fields(view, graph.value, graph.end)
    *_, tensor = (field for field in inner if field.number == _GRAPH_INITIALIZER)
    raw = bytes([_TENSOR_RAW << 3 | 2]) + varint(size)
    tensor_head = varint(tensor.end - tensor.value + len(raw) + size)
    growth = len(tensor_head) - (tensor.value - tensor.length) + len(raw) + size
    before = [
        data[: graph.length],
        varint(graph.end - graph.value + growth),
        data[graph.value : tensor.length],
        tensor_head,
        data[tensor.value : tensor.end],
        raw,
    ]
    return b"".join(before), data[tensor.end :]
