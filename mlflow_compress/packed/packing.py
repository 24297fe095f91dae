"""Packs a model: takes the weights out, codes them, and puts them behind ``Packed`` nodes."""

import os
import zlib
from collections.abc import Callable, Sequence
from typing import Literal

from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper

from mlflow_compress.errors import SourceError
from mlflow_compress.packed.codec import backends, choose
from mlflow_compress.packed.format import (
    BLOB,
    DOMAIN,
    DOMAIN_VERSION,
    HEADER,
    MAX_TENSOR_BYTES,
    OP_TYPE,
    Directory,
    Entry,
    is_float,
    validate,
    varint,
    width_of,
    write_directory,
    write_header,
)
from mlflow_compress.packed.onnx import graphs, lean, tensors
from mlflow_compress.packed.onnx.files import LARGEST, Parts, joined, save, save_parts

__all__ = ["pack", "pack_file"]

# what a weight costs besides its payload: the entry, the output's name twice, its value_info
ENTRY_BYTES = 34
# an incompressible tensor this large is moved all the same: it gets its own checksum, and the
# runtime hands it over without a copy
LARGE = 1 << 14
LEAST_IR = 4


def pack(
    model: ModelProto,
    profile: Literal["compact", "portable"] = "compact",
    *,
    session_bytes: int | None = None,
) -> ModelProto:
    """Pack a model's weights losslessly.

    Args:
        model: the model, its external data loaded; it is not changed.
        profile: ``compact`` for :mod:`mlflow_compress.packed`'s own runtime, ``portable`` for any
            onnxruntime.
        session_bytes: of portable, about how much memory decoding may take while a session is
            created (default: 512 MiB); weights beyond that stay as they are.

    Returns:
        A valid ONNX model. Equal models give equal bytes.

    Raises:
        SourceError: if the model is packed already, or its external data are not loaded.
    """
    if profile not in ("compact", "portable"):
        raise SourceError(f"profile must be 'compact' or 'portable', got '{profile}'")
    if any(opset.domain == DOMAIN for opset in model.opset_import) and is_packed_model(model):
        raise SourceError("the model is packed already (unpack it first)")
    for graph in graphs.graphs(model.graph):
        for tensor in graph.initializer:
            if tensor.data_location == TensorProto.EXTERNAL:
                raise SourceError(
                    f"tensor '{tensor.name}': its external data are not loaded "
                    "(load the model with onnx.load from its folder)"
                )
    graphs.refuse_malformed(model)
    if profile == "portable":
        from mlflow_compress.packed.portable.plan import SESSION_BYTES
        from mlflow_compress.packed.portable.write import pack_model

        packed = ModelProto()
        packed.CopyFrom(model)
        return pack_model(packed, SESSION_BYTES if session_bytes is None else session_bytes)
    return joined(_pack_compact(lean.copy(model)))


def pack_file(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    profile: Literal["compact", "portable"] = "compact",
    *,
    largest: int = LARGEST,
    prepare: Callable[[ModelProto], ModelProto] | None = None,
) -> int:
    """Pack one file into another, as :func:`pack` and :func:`files.save` do.

    In the compact profile external data are read tensor by tensor: what is in memory is what was
    packed so far, and never the model.

    Args:
        source: a plain model.
        target: where to; an existing file is replaced.
        profile: see :func:`pack`.
        largest: see :func:`files.save`.
        prepare: makes of a plain model what is packed in the portable profile; the model itself
            when None.

    Returns:
        What the source takes in bytes, its external data included.

    Raises:
        SourceError: as :func:`pack`, or if the source is no model.
        SourceNotFoundError: if the source or its external data cannot be read.
    """
    plain = lean.read(source)
    graphs.refuse_malformed(plain.model)
    if profile == "compact" and not is_packed_model(plain.model):
        save_parts(_pack_compact(plain), target, largest=largest)
    else:
        for position, ask in plain.data.items():
            plain.model.graph.initializer[position].raw_data = ask()
        model = plain.model
        if prepare is not None and not is_packed_model(model):
            model = prepare(model)
        save(pack(model, profile), target)
    return plain.bytes


def is_packed_model(model: ModelProto) -> bool:
    """Whether a model in memory is packed, in either profile."""
    return any(opset.domain == DOMAIN for opset in model.opset_import)


def _pack_compact(plain: lean.Lean) -> Parts:
    packed = plain.model
    blob_name = graphs.unused_name(packed, BLOB)
    entries: list[Entry] = []
    names: list[str] = []
    payloads: list[bytes] = []
    for graph in list(graphs.graphs(packed.graph)):
        first, described = len(entries), graphs.Described(graph)
        for weight in graphs.weights(graph, plain.data if graph is packed.graph else None):
            payload = _payload(weight)
            if payload is None:
                continue
            entry = graphs.describe(described, weight)
            entries.append(
                graphs.with_payload(
                    entry, len(payload), backends.crc32(payload), backends.crc32(weight.data)
                )
            )
            names.append(weight.name)
            payloads.append(payload)
        if len(entries) > first:
            graphs.take_out(graph, names[first:], entries[first:])
            graph.node.insert(0, _node(blob_name, names[first:], first))
    had_import = is_packed_model(packed)
    if not had_import:
        packed.opset_import.append(helper.make_opsetid(DOMAIN, DOMAIN_VERSION))
    ir_version = packed.ir_version if packed.ir_version < LEAST_IR else None
    if ir_version is not None:
        packed.ir_version = LEAST_IR
    directory = Directory(tuple(entries), ir_version, had_import)
    validate(directory, names, MAX_TENSOR_BYTES)
    return _with_blob(packed, blob_name, write_directory(directory), payloads)


def _payload(weight: graphs.Weight) -> bytes | None:
    """The coded weight, or None where it is better left where it is."""
    dtype = weight.tensor.data_type
    size = len(weight.data)
    fixed = ENTRY_BYTES + 2 * len(weight.name)
    if size <= fixed:
        return None
    payload = choose.encode(
        weight.data,
        width_of(dtype),
        is_float(dtype),
        tensors.row_items(weight.tensor),
        tensors.kernel_items(weight.tensor),
    )
    return payload if len(payload) + fixed < size or size >= LARGE else None


def _node(blob: str, names: Sequence[str], first: int) -> NodeProto:
    node = NodeProto(op_type=OP_TYPE, domain=DOMAIN, input=[blob], output=names)
    if first:
        node.attribute.append(helper.make_attribute("at", first))
    return node


def _with_blob(packed: ModelProto, name: str, directory: bytes, payloads: Sequence[bytes]) -> Parts:
    graph: GraphProto = packed.graph
    size = HEADER.size + len(varint(len(directory))) + len(directory) + sum(map(len, payloads))
    graph.initializer.add(name=name, data_type=TensorProto.UINT8, dims=[size])
    rest = zlib.crc32(packed.SerializeToString(deterministic=True))
    head = write_header(rest, directory)
    return Parts(packed, (head, varint(len(directory)), directory, *payloads))
