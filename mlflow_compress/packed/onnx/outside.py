"""What a model keeps outside its file, and where: nothing leads out of the model's folder.

ONNX lets any tensor keep its bytes in another file: initializers, also of nested graphs, and what
attributes of nodes hold, also of functions. A path in a model is somebody's word; it is followed to
a plain file in the model's own folder, and nowhere else.
"""

import os
import stat
import warnings
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path, PureWindowsPath

import onnx
from google.protobuf.descriptor import Descriptor
from google.protobuf.message import DecodeError, Message
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto
from onnx.external_data_helper import load_external_data_for_tensor

from mlflow_compress.errors import SourceError, SourceNotFoundError, shown

__all__ = [
    "check_text",
    "inside",
    "load_model",
    "load_outside",
    "outside_files",
    "plain_file",
    "read_outside",
]

_UNREADABLE = (DecodeError, OSError, ValueError, onnx.checker.ValidationError)

_FREE = {("NodeProto", "name"), ("NodeProto", "doc_string"), ("ValueInfoProto", "doc_string"),
         ("TensorProto", "doc_string"), ("AttributeProto", "doc_string")}  # fmt: skip


def plain_file(path: Path, what: str) -> Path:
    """Return a path as long as it is one of a plain file, links followed.

    Args:
        path: of the file.
        what: what names it, for messages.

    Raises:
        SourceNotFoundError: there is none.
        SourceError: it is a device, a FIFO, a socket or a folder, which may have no end.
    """
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError) as error:
        why = (getattr(error, "strerror", None) or "no such file").lower()
        raise SourceNotFoundError(f"{_of(what, path)}: {why}") from None
    if not stat.S_ISREG(mode):
        raise SourceError(f"{_of(what, path)} is no plain file")
    return path


def _of(what: str, path: Path) -> str:
    """Name a path and what names it, which may say the path itself."""
    return what if str(path) in what else f"{what}: {path}"


def inside(folder: Path, name: object, what: str) -> Path:
    """Return the plain file that a path in a model or beside it leads to.

    Args:
        folder: the model's.
        name: the path, as it stands there.
        what: where it stands, for messages.

    Raises:
        SourceNotFoundError: there is no such file.
        SourceError: it is no path, is absolute, climbs or leads out of the folder, also over
            links, or it leads to something else than a plain file.
    """
    if not isinstance(name, str) or not name or "\0" in name:
        raise SourceError(f"{what}: {str(name)[:80]!r} is no path of a file")
    absolute = Path(name).is_absolute() or PureWindowsPath(name).drive or name.startswith("\\")
    if absolute or ".." in (*Path(name).parts, *PureWindowsPath(name).parts):
        raise SourceError(f"{what}: {name!r} leads out of the model's folder: put the file into it")
    path = folder / name
    if not path.resolve().is_relative_to(folder.resolve()):
        raise SourceError(f"{what}: {name!r} leads out of the model's folder: put the file into it")
    return plain_file(path, what)


def outside_files(model: ModelProto, folder: Path, what: str) -> list[Path]:
    """Return the files that a model's tensors keep their bytes in, in the order of their names.

    Args:
        model: read without its external data.
        folder: the model's.
        what: the model, for messages.

    Raises:
        SourceNotFoundError: there is no such file, or it ends before the data do.
        SourceError: a path leads out of the folder, or to no plain file, or to one with a second
            name; an offset or a length is no number.
    """
    found = {}
    for tensor in _tensors(model):
        if tensor.data_location == TensorProto.EXTERNAL or tensor.external_data:
            said = {entry.key: entry.value for entry in tensor.external_data}
            where = f"{what}: external data of tensor {tensor.name!r}"
            path = inside(folder, said.get("location", ""), where)
            _check_place(said, path, where)
            found[said["location"]] = path
    return [found[name] for name in sorted(found)]


def load_model(path: Path, what: str) -> ModelProto:
    """Read a model with its external data.

    Args:
        path: its file.
        what: the model, for messages.

    Raises:
        SourceNotFoundError: a file is missing.
        SourceError: it is no model, or its external data are not in its folder.
    """
    plain_file(path, what)
    try:
        model = onnx.load(os.fspath(path), load_external_data=False)
        check_text(model, what)
        outside_files(model, path.parent, what)
        read_outside(model, path.parent)
    except _UNREADABLE as error:
        text = " ".join(str(error).split())[:120]
        raise SourceError(f"{what} is not an ONNX model: {text}") from error
    return model


def check_text(message: Message, what: str) -> None:
    """Refuse texts that are none: protobuf hands them over as bytes, which nothing takes for names.

    Names of nodes and comments stay as they are: they are handed on, and stand for nothing.

    Args:
        message: the model, or a part of it.
        what: what it is, for the message.

    Raises:
        SourceError: names the field.
    """
    for name, is_text, is_one in _fields(message.DESCRIPTOR):
        if is_one and not message.HasField(name):
            continue
        value = getattr(message, name)
        for one in [value] if is_one else value:
            if not is_text:
                check_text(one, what)
            elif not isinstance(one, str):
                raise SourceError(
                    f"{what}: {name} in a {message.DESCRIPTOR.name} is {shown(one)}, and texts of "
                    "ONNX are UTF-8: export it with other names"
                )


@cache
def _fields(kind: Descriptor) -> tuple[tuple[str, bool, bool], ...]:
    """Return the fields of a message that hold texts or messages: whether texts, whether one.

    The others are not looked at: asking for a tensor's bytes would copy them.
    """
    return tuple(
        (field.name, field.type == field.TYPE_STRING, field.has_presence)
        for field in kind.fields
        if field.type in (field.TYPE_STRING, field.TYPE_MESSAGE)
        and (kind.name, field.name) not in _FREE
    )


def load_outside(tensor: TensorProto, folder: Path) -> None:
    """Read a tensor's external data as onnx does, without what it says of keys that it ignores."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*unknown external data key.*")
        load_external_data_for_tensor(tensor, os.fspath(folder))


def read_outside(model: ModelProto, folder: Path) -> None:
    """Read what lies outside into a model, also that of functions, which onnx leaves where it is.

    Args:
        model: its files were looked at by :func:`outside_files`.
        folder: the model's.
    """
    for tensor in _tensors(model):
        if tensor.data_location == TensorProto.EXTERNAL:
            load_outside(tensor, folder)
            tensor.data_location = TensorProto.DEFAULT
            del tensor.external_data[:]


def _check_place(said: dict[str, str], path: Path, where: str) -> None:
    status = path.stat()
    size = status.st_size
    if status.st_nlink > 1:  # onnx would say so of some tensors, and not of others
        raise SourceError(
            f"{where}: {path.name} has another name too, a hard link that may lead anywhere: copy "
            "the file"
        )
    numbers = {"offset": 0, "length": 0}
    for key in numbers.keys() & said.keys():
        if not said[key].isascii() or not said[key].isdigit():
            raise SourceError(f"{where}: {key} {said[key][:40]!r} is no number")
        numbers[key] = int(said[key])
    if sum(numbers.values()) > size:
        raise SourceNotFoundError(
            f"{where}: they end at {sum(numbers.values())}, and {path.name} has {size} bytes"
        )


def _tensors(model: ModelProto) -> Iterator[TensorProto]:
    yield from _of_graph(model.graph)
    for function in model.functions:
        yield from _of_nodes(function.node)
        yield from _of_attributes(function.attribute_proto)
    for training in model.training_info:
        yield from _of_graph(training.initialization)
        yield from _of_graph(training.algorithm)


def _of_graph(graph: GraphProto) -> Iterator[TensorProto]:
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield from (sparse.values, sparse.indices)
    yield from _of_nodes(graph.node)


def _of_nodes(nodes: Iterable[NodeProto]) -> Iterator[TensorProto]:
    for node in nodes:
        yield from _of_attributes(node.attribute)


def _of_attributes(attributes: Iterable[AttributeProto]) -> Iterator[TensorProto]:
    for attribute in attributes:
        if attribute.HasField("t"):
            yield attribute.t
        yield from attribute.tensors
        for sparse in (attribute.sparse_tensor, *attribute.sparse_tensors):
            yield from (sparse.values, sparse.indices)
        if attribute.HasField("g"):
            yield from _of_graph(attribute.g)
        for graph in attribute.graphs:
            yield from _of_graph(graph)
