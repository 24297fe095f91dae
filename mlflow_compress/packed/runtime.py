"""Puts decoded weights back: into a ModelProto, or into an onnxruntime session."""

import errno
import mmap
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime
from onnx import GraphProto, ModelProto, StringStringEntryProto, TensorProto

from mlflow_compress.base.files import check_replaceable, replacing
from mlflow_compress.errors import PackedFormatError
from mlflow_compress.packed.format import DOMAIN, TYPED_DATA, Entry
from mlflow_compress.packed.onnx import graphs, tensors, wire
from mlflow_compress.packed.onnx.files import LARGEST, beside, save
from mlflow_compress.packed.opened import Container, PackedWeight, in_parallel
from mlflow_compress.packed.opening import Source, open_packed, parse_model, read_bytes
from mlflow_compress.packed.portable.known import check_functions

__all__ = ["load", "unpack", "unpack_file", "verify"]

# onnxruntime reads shapes while it builds the graph: small tensors stay inline
INLINE = 4096
ALIGN = 4096


def _decoded(weight: PackedWeight) -> bytes:
    out = np.empty(weight.entry.size, np.uint8)
    weight.decode_into(out)
    return out.tobytes()


def unpack(
    source: Source, *, threads: int | None = None, max_bytes: int | None = None
) -> ModelProto:
    """Rebuild the model that was packed, bit for bit.

    Args:
        source: a packed model: path, bytes or ModelProto (which is not changed).
        threads: how many tensors to decode at a time; None for one per core.
        max_bytes: most bytes the weights may decode to, a file that wants more is refused; None
            for 256 MiB and 256 times the file's size.

    Raises:
        PackedFormatError: if the file is damaged, hostile or not packed.
        SourceNotFoundError: if there is no such file.
    """
    return _rebuilt(open_packed(source, max_bytes), threads)


def unpack_file(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    *,
    threads: int | None = None,
    max_bytes: int | None = None,
    largest: int = LARGEST,
) -> None:
    """Rebuild the model that was packed into a file, in another file.

    Args:
        source: a packed model.
        target: where to; an existing file is replaced.
        threads: see :func:`unpack`.
        max_bytes: see :func:`unpack`.
        largest: bytes from which on the weights are external data, in a file beside ``target``
            named like it with ``.data`` behind. They are decoded into it, and not kept in memory.

    Raises:
        PackedFormatError: if the file is damaged, hostile or not packed.
        SourceNotFoundError: if there is no such file.
    """
    packed, path = open_packed(source, max_bytes), Path(target)
    if packed.model.ByteSize() + sum(weight.entry.size for weight in packed.weights()) < largest:
        save(_rebuilt(packed, threads), path)
        return
    check_replaceable(path)
    with replacing(beside(path)) as data:
        # what stood in typed fields stays in them: the model is to be what it was
        places = _write_weights(packed, data, threads, but_flags=TYPED_DATA)
    for graph in packed.graphs:
        _fill(graph.graph, graph.weights, places, beside(path).name, TYPED_DATA)
    save(packed.model, path)


def _rebuilt(packed: Container, threads: int | None) -> ModelProto:
    for graph in packed.graphs:
        names = [weight.name for weight in graph.weights]
        entries = [weight.entry for weight in graph.weights]
        data = dict(zip(names, in_parallel(_decoded, graph.weights, threads), strict=True))

        def fill(tensor: TensorProto, name: str, entry: Entry, data: Any = data) -> None:
            tensors.set_data(tensor, data.pop(name), typed=bool(entry.flags & TYPED_DATA))

        graphs.put_back(graph.graph, names, entries, fill)
    return packed.model


def verify(source: Source, *, max_bytes: int | None = None) -> None:
    """Decode everything and compare every checksum, and a portable model's functions with ours.

    Raises:
        PackedFormatError: naming the first damaged tensor, or what else is wrong.
        SourceNotFoundError: if there is no such file.
    """
    opened = open_packed(source, max_bytes)
    if opened.profile == "portable":
        whole = source if isinstance(source, ModelProto) else parse_model(read_bytes(source))
        check_functions(whole)
    for weight in opened.weights():
        weight.decode_into(np.empty(weight.entry.size, np.uint8))


def load(
    source: str | os.PathLike[str] | bytes,
    providers: Sequence[str] | None = None,
    threads: int | None = None,
    *,
    max_bytes: int | None = None,
) -> onnxruntime.InferenceSession:
    """Open a packed model, or a plain .onnx, for inference.

    Args:
        source: path or bytes of the file.
        providers: onnxruntime's execution providers, best first; None for the CPU.
        threads: threads for decoding and within operators; None for onnxruntime's choice.
        max_bytes: most bytes the weights may decode to; None for 256 MiB and 256 times the file's
            size.

    Raises:
        PackedFormatError: if the file is damaged or hostile.
        SourceNotFoundError: if there is no such file.
    """
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # what fails is raised
    if threads is not None:
        options.intra_op_num_threads = threads
    chosen = list(providers) if providers is not None else ["CPUExecutionProvider"]
    data = read_bytes(source)
    if not wire.imports_domain(data):
        plain = source if isinstance(source, bytes) else os.fspath(source)
        return onnxruntime.InferenceSession(plain, options, providers=chosen)
    return _session(open_packed(source, max_bytes), options, chosen, threads)


def _session(
    packed: Container,
    options: onnxruntime.SessionOptions,
    providers: list[str],
    threads: int | None,
) -> onnxruntime.InferenceSession:
    """Decode into a file in memory, which onnxruntime maps: the weights exist once.

    Measured against the alternatives (MiniLM int8): rebuilding the ModelProto takes 2.6 times the
    memory, handing over initializers from memory twice.
    """
    if packed.profile == "compact" and _weights_only(packed.model):
        # Else it would unpack them in every call: a LeNet-5 of 4 bits takes 1.6 times as long.
        # Portable files run as in an onnxruntime alone, which rounds activations there too.
        options.add_session_config_entry("session.disable_quant_qdq", "1")
    memory = Path("/dev/shm")
    bases = [memory] if memory.is_dir() and os.access(memory, os.W_OK) else []
    for base in [*bases, None]:
        with tempfile.TemporaryDirectory(prefix="mlflow_compress_", dir=base) as folder:
            try:
                places = _write_weights(packed, Path(folder, "weights"), threads)
            except OSError as error:
                if base is None or error.errno != errno.ENOSPC:
                    raise
                continue  # memory for files is short (containers allow 64 MB): use the disk
            for graph in packed.graphs:
                _fill(graph.graph, graph.weights, places, "weights")
            path = Path(folder, "model.onnx")
            path.write_bytes(packed.model.SerializeToString())
            return onnxruntime.InferenceSession(os.fspath(path), options, providers=providers)
    raise AssertionError("the last base either returns or raises")


def _weights_only(model: ModelProto) -> bool:
    """Whether weights are integers behind a DequantizeLinear, and activations are not quantized."""
    kinds = {node.op_type for node in model.graph.node}
    return "DequantizeLinear" in kinds and "QuantizeLinear" not in kinds


def _write_weights(
    packed: Container, path: Path, threads: int | None, but_flags: int = 0
) -> dict[int, int]:
    """Decode the large weights into a file; return where each stands, by its id.

    Weights with one of ``but_flags`` are left out.

    Raises:
        OSError: if there is no room for the file; nothing has been decoded then.
    """
    places: dict[int, int] = {}
    external: list[PackedWeight] = []
    size = 0
    for graph in packed.graphs:
        for weight in graph.weights:
            # initializers of graphs inside nodes cannot be external in onnxruntime
            inner = graph.graph is not packed.model.graph or weight.entry.flags & but_flags
            if not inner and weight.entry.size > INLINE:
                places[id(weight)] = size
                external.append(weight)
                size += -(-weight.entry.size // ALIGN) * ALIGN
    if not size:
        return places
    with path.open("wb+") as file:
        if hasattr(os, "posix_fallocate"):
            # writing to a mapping without room behind it would kill the process
            os.posix_fallocate(file.fileno(), 0, size)
        else:
            file.truncate(size)
        area = mmap.mmap(file.fileno(), size)
        _decode_all(np.frombuffer(area, np.uint8), external, places, threads)
    return places


def _decode_all(
    area: npt.NDArray[np.uint8],
    weights: list[PackedWeight],
    places: dict[int, int],
    threads: int | None,
) -> None:
    """Decode each weight to its place. The mapping ends with the last view of it."""

    def decode(weight: PackedWeight) -> None:
        at = places[id(weight)]
        weight.decode_into(area[at : at + weight.entry.size])

    in_parallel(decode, weights, threads)


def _fill(
    graph: GraphProto,
    weights: list[PackedWeight],
    places: dict[int, int],
    file: str,
    typed: int = 0,
) -> None:
    """Put the weights back: those that have a place as external data in ``file``.

    Of the others, those with a flag of ``typed`` get their data in the typed field.
    """
    by_name = {weight.name: weight for weight in weights}

    def fill(tensor: TensorProto, name: str, entry: Entry) -> None:
        weight = by_name[name]
        at = places.get(id(weight))
        if at is None:
            tensors.set_data(tensor, _decoded(weight), typed=bool(entry.flags & typed))
            return
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in (("location", file), ("offset", at), ("length", entry.size)):
            tensor.external_data.append(StringStringEntryProto(key=key, value=str(value)))

    graphs.put_back(graph, list(by_name), [weight.entry for weight in weights], fill)


def is_packed(source: Source) -> bool:
    """Whether a model (path, bytes or ModelProto) is packed, in either profile.

    Raises:
        SourceNotFoundError: if there is no such file.
    """
    if isinstance(source, ModelProto):
        return any(opset.domain == DOMAIN for opset in source.opset_import)
    try:
        return wire.imports_domain(read_bytes(source))
    except PackedFormatError:
        return False
