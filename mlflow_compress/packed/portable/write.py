"""The portable profile: weights that an unmodified ONNX runtime decodes by folding constants.

Each weight becomes the output of a call of a function that stands in the file, fed by
initializers. ``docs/format.md``, section 7, is the specification.
"""

import base64
import logging
import string
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import chain, count

from onnx import FunctionProto, ModelProto, NodeProto, ValueInfoProto, helper

from mlflow_compress.errors import SourceError
from mlflow_compress.packed.codec import backends
from mlflow_compress.packed.format import (
    DOMAIN,
    DOMAIN_VERSION,
    MAX_TENSOR_BYTES,
    Directory,
    Entry,
    validate,
    write_directory,
    write_header,
)
from mlflow_compress.packed.onnx import graphs
from mlflow_compress.packed.portable.functions import HELPERS, SEGMENT_KINDS, Reading, functions
from mlflow_compress.packed.portable.joint import Joint
from mlflow_compress.packed.portable.plan import SESSION_BYTES, choose
from mlflow_compress.packed.portable.tensor import DTYPES, Candidate, PortableTensor

__all__ = ["METADATA", "MIN_OPSET", "pack_model"]

MIN_OPSET = 13
LEAST_IR = 8
METADATA = "mlflow_compress"
_log = logging.getLogger(__name__)


@dataclass
class _Coded:
    """What goes into the model in the place of its plain weights."""

    entries: list[Entry] = field(default_factory=list)
    tensors: list[PortableTensor] = field(default_factory=list)
    functions: list[FunctionProto] = field(default_factory=list)
    prefix: list[NodeProto] = field(default_factory=list)
    infos: list[ValueInfoProto] = field(default_factory=list)


def pack_model(model: ModelProto, session_bytes: int = SESSION_BYTES) -> ModelProto:
    """Pack a model, which is changed, in the portable profile.

    Args:
        model: the model; weights that would take most memory for what they save stay raw.
        session_bytes: what decoding may take of memory while a session is created, about.

    Raises:
        SourceError: if its opset is below 13, or it uses the helpers' domain itself.
    """
    # copies of the weights are gone before the model is serialised for its checksum
    _attach(model, _code(model, _opset(model), session_bytes))
    return model


def _code(model: ModelProto, opset: int, session_bytes: int) -> _Coded:
    """Choose and code; the model is not changed."""
    graph = model.graph
    # ONNX Runtime does not fold what makes an output of the graph, and a node's output is no
    # input that callers may give.
    kept = {info.name for info in graph.output} | graphs.default_inputs(model)
    weights = [
        weight
        for weight in graphs.weights(graph)
        if weight.name not in kept and weight.tensor.data_type in DTYPES and weight.data
    ]
    candidates = [
        Candidate(weight.name, weight.tensor.data_type, weight.tensor.dims, weight.data)
        for weight in weights
    ]
    plan = choose(candidates, opset, session_bytes)
    if weights and not any(plan.kinds):
        _log.info("portable: no weight gets smaller by being coded, all stay as they are")
    names = _unused_names(model)
    out = _Coded()
    taken: list[graphs.Weight] = []
    depth, joint = 0, Joint()
    for weight, candidate, kind in zip(weights, candidates, plan.kinds, strict=True):
        if kind is not None:
            tensor, deepest = candidate.encode(kind, plan.step, joint, names)
            depth = max(depth, deepest)
            out.tensors.append(tensor)
            taken.append(weight)
    out.prefix, out.infos, decoded = joint.finish(names, plan.merge)
    described = graphs.Described(graph)
    for weight, tensor in zip(taken, out.tensors, strict=True):
        if tensor.node.op_type in SEGMENT_KINDS:
            tensor.node.input.insert(0, decoded)
        payload = tensor.payload
        entry = graphs.describe(described, weight)
        crcs = backends.crc32(payload), backends.crc32(weight.data)
        out.entries.append(graphs.with_payload(entry, len(payload), *crcs))
    kinds = frozenset(tensor.node.op_type for tensor in out.tensors)
    out.functions = functions(Reading(kinds, plan.step, plan.merge, depth), opset)
    return out


def _opset(model: ModelProto) -> int:
    versions = {opset.domain: opset.version for opset in model.opset_import}
    opset = versions.get("", versions.get("ai.onnx", 1))
    if opset < MIN_OPSET:
        raise SourceError(
            f"the model's opset is {opset}, the portable profile needs {MIN_OPSET} or later "
            "(onnx.version_converter.convert_version raises it, or pack compact)"
        )
    if HELPERS in versions:
        raise SourceError(
            f"the model uses the domain '{HELPERS}', which the portable profile needs "
            "(pack compact)"
        )
    return opset


def _unused_names(model: ModelProto) -> Iterator[str]:
    """Short names that the model does not use: a to z, A to Z, a0 and so on."""
    used: set[str] = set()
    for graph in graphs.graphs(model.graph):
        used.update(info.name for info in (*graph.input, *graph.output, *graph.value_info))
        used.update(tensor.name for tensor in graph.initializer)
        for node in graph.node:
            used.update((*node.input, *node.output))
    letters = string.ascii_letters
    longer = (letter + str(number) for number in count() for letter in letters)
    return (name for name in chain(letters, longer) if name not in used)


def _attach(model: ModelProto, coded: _Coded) -> None:
    """Put the coded weights in the place of the plain ones."""
    graph, entries, attached = model.graph, coded.entries, coded.functions
    names = [tensor.node.output[0] for tensor in coded.tensors]
    graphs.take_out(graph, names, entries)
    nodes = (*coded.prefix, *(tensor.node for tensor in coded.tensors))
    for place, node in enumerate(nodes):
        graph.node.insert(place, node)
    for tensor in coded.tensors:
        graph.initializer.extend(tensor.initializers)
    graph.value_info.extend(coded.infos)
    model.functions.extend(attached)
    model.opset_import.append(helper.make_opsetid(DOMAIN, DOMAIN_VERSION))
    if any(function.domain == HELPERS for function in attached):
        model.opset_import.append(helper.make_opsetid(HELPERS, 1))
    ir_version = None
    if attached and model.ir_version < LEAST_IR:
        ir_version, model.ir_version = model.ir_version, LEAST_IR
    directory = Directory(tuple(entries), ir_version, had_import=False)
    validate(directory, names, MAX_TENSOR_BYTES)
    data = write_directory(directory)
    payloads = sum(len(tensor.initializers) for tensor in coded.tensors)
    head = write_header(rest_crc(model, payloads), data)
    model.metadata_props.add(key=METADATA, value=base64.b64encode(head + data).decode())


def rest_crc(model: ModelProto, payloads: int) -> int:
    """The crc32 of a model without its metadata entry and the data of its payloads.

    Args:
        model: a packed model without the entry.
        payloads: how many of the last initializers of the main graph are payload.
    """
    tensors = model.graph.initializer[len(model.graph.initializer) - payloads :]
    held = [(tensor, tensor.raw_data) for tensor in tensors if tensor.HasField("raw_data")]
    try:  # the model may be large: nothing is copied but its payloads
        for tensor, _ in held:
            tensor.ClearField("raw_data")
        return zlib.crc32(model.SerializeToString(deterministic=True))
    finally:
        for tensor, data in held:
            tensor.raw_data = data
