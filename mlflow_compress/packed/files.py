"""Writes packed models: to bytes, and to a file that is complete or not there."""

import os
import tempfile
from pathlib import Path

from onnx import ModelProto

__all__ = ["save", "to_bytes"]


def to_bytes(model: ModelProto) -> bytes:
    """Serialise a model; equal models give equal bytes."""
    return model.SerializeToString(deterministic=True)


def save(model: ModelProto, path: str | os.PathLike[str]) -> None:
    """Write a model to a sibling of ``path``, sync it and rename it into place.

    Args:
        model: packed or plain.
        path: where to; an existing file is replaced.
    """
    target = Path(path)
    handle, name = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(to_bytes(model))
            file.flush()
            os.fsync(file.fileno())
        umask = os.umask(0)
        os.umask(umask)
        Path(name).chmod(0o666 & ~umask)
        Path(name).replace(target)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    folder = os.open(target.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
