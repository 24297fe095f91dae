"""Writes packed models: to bytes, and to a file that is complete or not there."""

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from google.protobuf.message import EncodeError
from onnx import ModelProto, StringStringEntryProto, TensorProto

from mlflow_compress.base.files import check_replaceable, replacing
from mlflow_compress.errors import SourceError
from mlflow_compress.packed.format import MAGIC
from mlflow_compress.packed.onnx import lean, wire

__all__ = ["save", "to_bytes"]


# protobuf serialises less than 2 GiB
LARGEST = (1 << 31) - 1


def to_bytes(model: ModelProto) -> bytes:
    """Serialise a model; equal models give equal bytes.

    Raises:
        SourceError: if it is too large for one file (:func:`save` uses two).
    """
    try:
        return bytes(model.SerializeToString(deterministic=True))
    except EncodeError as error:
        raise SourceError(
            "the model is above 2 GB and cannot be one file (packed.save writes a compact one to "
            "two, packed.unpack_file a plain one; or onnx.save with save_as_external_data)"
        ) from error


@dataclass(frozen=True)
class Parts:
    """A compact model whose blob, the last initializer, has its bytes apart and in pieces."""

    model: ModelProto
    blob: Sequence[bytes]


def joined(parts: Parts) -> ModelProto:
    """The model with the blob in it; the one in ``parts`` is changed."""
    parts.model.graph.initializer[-1].raw_data = b"".join(parts.blob)
    return parts.model


def save(model: ModelProto, path: str | os.PathLike[str], *, largest: int = LARGEST) -> None:
    """Write a model to a sibling of ``path``, sync it and rename it into place.

    Args:
        model: packed or plain; it is not changed.
        path: where to; an existing file is replaced.
        largest: bytes from which on a compact model's payloads go into a file beside it, named
            like it with ``.data`` behind.

    Raises:
        ConfigError: if something else than a file is at ``path``.
        SourceError: if a model that is not compact is above 2 GB.
    """
    last = len(model.graph.initializer) - 1
    if last >= 0 and model.graph.initializer[last].raw_data[:4] == MAGIC:
        if model.ByteSize() < largest:
            _write(Path(path), [to_bytes(model)])
            return
        apart = lean.copy(model)
        if last in apart.data:
            for position, ask in apart.data.items():
                if position != last:
                    apart.model.graph.initializer[position].raw_data = ask()
            blob = apart.data[last]()
        else:
            tensor = apart.model.graph.initializer[last]
            blob = tensor.raw_data
            tensor.ClearField("raw_data")
        save_parts(Parts(apart.model, [blob]), path, largest=largest)
        return
    _write(Path(path), [to_bytes(model)])


def save_parts(parts: Parts, path: str | os.PathLike[str], *, largest: int = LARGEST) -> None:
    """Write a compact model as :func:`save` does, without ever joining its blob in memory."""
    target, size = Path(path), sum(map(len, parts.blob))
    blob = parts.model.graph.initializer[-1]
    if wire.size_with(parts.model, blob, size) < largest:
        before, after = wire.around(to_bytes(parts.model), size)
        _write(target, [before, *parts.blob, after])
        return
    split = ModelProto()
    split.CopyFrom(parts.model)
    tensor = split.graph.initializer[-1]
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("location", beside(target).name), ("length", str(size))):
        tensor.external_data.append(StringStringEntryProto(key=key, value=value))
    check_replaceable(target)
    _write(beside(target), parts.blob)
    _write(target, [to_bytes(split)])


def beside(target: Path) -> Path:
    """The second file of a model that is too large for one."""
    return target.with_name(f"{target.name}.data")


def _write(target: Path, pieces: Iterable[bytes]) -> None:
    """Write a file that is either complete or not there."""
    with replacing(target) as path, path.open("wb") as file:
        for piece in pieces:
            file.write(piece)
