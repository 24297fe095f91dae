"""Writes packed models: to bytes, and to a file that is complete or not there."""

import os
import tempfile
from pathlib import Path

from google.protobuf.message import EncodeError
from onnx import ModelProto, StringStringEntryProto, TensorProto

from mlflow_compress.errors import SourceError
from mlflow_compress.packed.format import MAGIC

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
            "the model is above 2 GB and cannot be one string of bytes (use packed.save)"
        ) from error


def save(model: ModelProto, path: str | os.PathLike[str], *, largest: int = LARGEST) -> None:
    """Write a model to a sibling of ``path``, sync it and rename it into place.

    Args:
        model: packed or plain; it is not changed.
        path: where to; an existing file is replaced.
        largest: bytes from which on a compact model's payloads go into a file beside it, named
            like it with ``.data`` behind.

    Raises:
        SourceError: if a model that is not compact is above 2 GB.
    """
    target = Path(path)
    blob = model.graph.initializer[-1] if len(model.graph.initializer) else None
    if blob is not None and blob.raw_data[:4] == MAGIC and len(blob.raw_data) >= largest:
        data = blob.raw_data
        beside = target.with_name(f"{target.name}.data")
        split = ModelProto()
        split.CopyFrom(model)
        tensor = split.graph.initializer[-1]
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in (("location", beside.name), ("length", str(len(data)))):
            tensor.external_data.append(StringStringEntryProto(key=key, value=value))
        _write(beside, data)
        _write(target, to_bytes(split))
        return
    _write(target, to_bytes(model))


def _write(target: Path, data: bytes) -> None:
    """Write a file that is either complete or not there."""
    handle, name = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        umask = os.umask(0)
        os.umask(umask)
        Path(name).chmod(0o666 & ~umask)
        Path(name).replace(target)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    if os.name == "posix":
        folder = os.open(target.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
