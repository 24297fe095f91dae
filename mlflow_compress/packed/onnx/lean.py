"""Models whose large weights are left where they are until each is packed.

A message of protobuf gives no memory back before all of it goes, so what a packed model shall not
hold must never be copied into it.
"""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import onnx
from google.protobuf.message import DecodeError, Message
from google.protobuf.unknown_fields import UnknownFieldSet
from onnx import ModelProto, TensorProto

from mlflow_compress.errors import SourceError, SourceNotFoundError
from mlflow_compress.packed.format import bits_of, decoded_bytes
from mlflow_compress.packed.onnx import tensors
from mlflow_compress.packed.onnx.outside import (
    check_text,
    load_outside,
    outside_files,
    plain_file,
    read_outside,
)

__all__ = ["Lean", "copy", "read"]

# smaller weights are copied: they cost less than keeping track of them
LARGE = 1 << 16
_PLAIN = {"name", "dims", "data_type", "raw_data", "doc_string", "metadata_props", "data_location"}


@dataclass(frozen=True)
class Lean:
    """A model without the data of some of the main graph's initializers.

    Attributes:
        model: the model, which may be changed.
        data: by position in the main graph's initializers, a function that gives the data that
            are left out.
        bytes: what the whole model, its external data included, takes.
    """

    model: ModelProto
    data: Mapping[int, Callable[[], bytes]] = field(default_factory=dict)
    bytes: int = 0


def copy(model: ModelProto) -> Lean:
    """Copy a model in memory, all but the data of its large weights."""
    out = ModelProto()
    data: dict[int, Callable[[], bytes]] = {}
    if len(UnknownFieldSet(model)) or len(UnknownFieldSet(model.graph)):
        out.CopyFrom(model)  # fields of a later ONNX, which could not be copied one by one
        return Lean(out, data, model.ByteSize())
    _copy_fields(out, model, but="graph")
    if model.HasField("graph"):
        out.graph.SetInParent()
        _copy_fields(out.graph, model.graph, but="initializer")
    for position, tensor in enumerate(model.graph.initializer):
        new = out.graph.initializer.add()
        if _is_large(tensor) and tensors.raw_data(tensor) is not None:
            _copy_fields(new, tensor, but="raw_data")
            data[position] = _data_of(tensor)
        else:
            new.CopyFrom(tensor)
    return Lean(out, data, model.ByteSize())


def _data_of(tensor: TensorProto) -> Callable[[], bytes]:
    return lambda: bytes(tensor.raw_data)


def _is_large(tensor: TensorProto) -> bool:
    """Whether a tensor has a name, raw data and nothing unusual, and is worth leaving out."""
    return (
        bits_of(tensor.data_type) is not None
        and all(dim >= 0 for dim in tensor.dims)
        and decoded_bytes(tensor.data_type, tensor.dims) >= LARGE
        and 0 < len(tensor.name) < LARGE // 8
        and tensor.data_location == TensorProto.DEFAULT
        and {item.name for item, _ in tensor.ListFields()} <= _PLAIN
        and not len(UnknownFieldSet(tensor))
    )


def _copy_fields(out: Any, message: Any, but: str) -> None:
    """Copy all fields of a message but one."""
    for item, value in message.ListFields():
        if item.name == but:
            continue
        if isinstance(value, Message):
            getattr(out, item.name).CopyFrom(value)
        elif isinstance(value, str | bytes | int | float):
            setattr(out, item.name, value)
        else:
            getattr(out, item.name).extend(value)


def read(path: str | os.PathLike[str]) -> Lean:
    """Read a plain model, its large external data only when they are asked for.

    Raises:
        SourceNotFoundError: if the file, or one with its external data, cannot be read.
        SourceError: if it is no model, or its external data are not in its folder.
    """
    source = Path(path)
    if not source.exists():
        raise SourceNotFoundError(f"no model file at '{source}'")
    plain_file(source, "model")
    try:
        model = onnx.load(source, load_external_data=False)
    except DecodeError as error:
        raise SourceError(f"'{source}' is not an ONNX model") from error
    check_text(model, f"'{source}'")
    outside_files(model, source.parent, f"'{source}'")
    data: dict[int, Callable[[], bytes]] = {}
    left = 0
    for position, tensor in enumerate(model.graph.initializer):
        if tensor.data_location != TensorProto.EXTERNAL:
            continue
        there = TensorProto()
        there.CopyFrom(tensor)
        tensor.ClearField("external_data")
        tensor.data_location = TensorProto.DEFAULT
        if _is_large(tensor):
            data[position] = _data_beside(source, there)
            left += decoded_bytes(tensor.data_type, tensor.dims)
        else:
            tensor.CopyFrom(there)
    try:
        read_outside(model, source.parent)
    except _UNREADABLE as error:
        raise SourceNotFoundError(f"'{source}': its external data cannot be read") from error
    inside = copy(model)
    return Lean(inside.model, {**inside.data, **data}, inside.bytes + left)


_UNREADABLE = (OSError, ValueError, onnx.checker.ValidationError)


def _data_beside(source: Path, there: TensorProto) -> Callable[[], bytes]:
    """What reads a tensor's external data, as onnx does."""

    def ask() -> bytes:
        tensor = TensorProto()
        tensor.CopyFrom(there)
        try:
            load_outside(tensor, source.parent)
        except _UNREADABLE as error:
            raise SourceNotFoundError(
                f"'{source}': the external data of tensor '{there.name}' cannot be read"
            ) from error
        data = bytes(tensor.raw_data)
        wanted = decoded_bytes(there.data_type, there.dims)
        if len(data) != wanted:
            raise SourceError(
                f"'{source}': tensor '{there.name}' has {len(data)} bytes of external data, "
                f"its shape needs {wanted}"
            )
        return data

    return ask
