"""The format's constants, limits and directory; see ``docs/format.md``, sections 2 and 3.

One :func:`validate` serves writer and reader.
"""

import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

from onnx import ModelProto, TensorProto

from mlflow_compress.errors import PackedFormatError

DOMAIN = "mlflow_compress"
DOMAIN_VERSION = 1
OP_TYPE = "Packed"
BLOB = "packed"
MAGIC = b"MLCP"
VERSION = 1
HEADER = struct.Struct("<4sBII")

MAX_ENTRIES = 1 << 20
MAX_RANK = 32
MAX_DIRECTORY = 1 << 28
MAX_REMAINDER = 1 << 24
MAX_TENSOR_BYTES = 1 << 40
DEFAULT_CAP = 1 << 28
MAX_RATE = 1 << 8

_BITS = {
    TensorProto.FLOAT: 32,
    TensorProto.UINT8: 8,
    TensorProto.INT8: 8,
    TensorProto.UINT16: 16,
    TensorProto.INT16: 16,
    TensorProto.INT32: 32,
    TensorProto.INT64: 64,
    TensorProto.BOOL: 8,
    TensorProto.FLOAT16: 16,
    TensorProto.DOUBLE: 64,
    TensorProto.UINT32: 32,
    TensorProto.UINT64: 64,
    TensorProto.COMPLEX64: 64,
    TensorProto.COMPLEX128: 128,
    TensorProto.BFLOAT16: 16,
    TensorProto.FLOAT8E4M3FN: 8,
    TensorProto.FLOAT8E4M3FNUZ: 8,
    TensorProto.FLOAT8E5M2: 8,
    TensorProto.FLOAT8E5M2FNUZ: 8,
    TensorProto.UINT4: 4,
    TensorProto.INT4: 4,
    TensorProto.FLOAT4E2M1: 4,
    TensorProto.FLOAT8E8M0: 8,
    TensorProto.UINT2: 2,
    TensorProto.INT2: 2,
}
_FLOATS = {
    TensorProto.FLOAT,
    TensorProto.FLOAT16,
    TensorProto.BFLOAT16,
    TensorProto.DOUBLE,
    TensorProto.COMPLEX64,
    TensorProto.COMPLEX128,
}
_COMPLEX = {TensorProto.COMPLEX64: 4, TensorProto.COMPLEX128: 8}

CONSTANT_NODE, HAD_VALUE_INFO, GRAPH_INPUT, TYPED_DATA, HAS_REMAINDER = 1, 2, 4, 8, 16
IR_RAISED, HAD_IMPORT = 1, 2


def cap_of(max_bytes: int | None, file_bytes: int) -> int:
    """Most bytes a file's weights may decode to: what the caller says, or by the file's size."""
    return DEFAULT_CAP + MAX_RATE * file_bytes if max_bytes is None else max_bytes


def bits_of(dtype: int) -> int | None:
    """Bits of one element of an ONNX data type; None for strings and unknown types."""
    return _BITS.get(dtype)


def width_of(dtype: int) -> int:
    """Bytes of one coded item (``docs/format.md``, section 3)."""
    return _COMPLEX.get(dtype) or max(1, _BITS[dtype] // 8)


def is_float(dtype: int) -> bool:
    """Whether byte planes of this type gain from rotating the sign away from the exponent."""
    return dtype in _FLOATS


def decoded_bytes(dtype: int, dims: Sequence[int]) -> int:
    """Bytes of a tensor's data in ``raw_data`` form."""
    return (prod(dims) * _BITS[dtype] + 7) // 8


@dataclass(frozen=True)
class Entry:
    """One packed weight in the directory (``docs/format.md``, section 3)."""

    flags: int
    dtype: int
    dims: tuple[int, ...]
    position: int
    payload_bytes: int
    payload_crc: int
    decoded_crc: int
    input_position: int = 0
    input_info: bytes = b""
    remainder: bytes = b""

    @property
    def size(self) -> int:
        """Decoded bytes."""
        return decoded_bytes(self.dtype, self.dims)


@dataclass(frozen=True)
class Directory:
    """Everything needed to rebuild the original model around the decoded weights."""

    entries: tuple[Entry, ...]
    ir_version: int | None = None
    had_import: bool = False

    def restore_ir_version(self, model: ModelProto) -> None:
        """Give a model the IR version that it had before it was packed."""
        if self.ir_version is not None:
            model.ir_version = self.ir_version


class Cursor:
    """Reads a bytes-like object front to back and refuses to go past its end."""

    def __init__(self, data: bytes | memoryview, what: str) -> None:
        self.data, self.at, self.what = data, 0, what

    def take(self, count: int) -> bytes:
        """Return the next ``count`` bytes."""
        if count > len(self.data) - self.at:
            raise PackedFormatError(f"{self.what}: ends after {len(self.data)} bytes, needs more")
        self.at += count
        return bytes(self.data[self.at - count : self.at])

    def byte(self) -> int:
        """Return the next byte."""
        return self.take(1)[0]

    def u32(self) -> int:
        """Return the next 32-bit integer."""
        return int.from_bytes(self.take(4), "little")

    def varint(self, limit: int) -> int:
        """Return the next varint, at most ``limit``."""
        value = 0
        for shift in range(0, 63, 7):
            byte = self.byte()
            value |= (byte & 127) << shift
            if byte < 128:
                if byte == 0 and shift:
                    raise PackedFormatError(f"{self.what}: a number is not in its shortest form")
                if value > limit:
                    raise PackedFormatError(f"{self.what}: {value} is above the limit {limit}")
                return value
        raise PackedFormatError(f"{self.what}: a number has more than 9 bytes")


def varint(value: int) -> bytes:
    """Write an unsigned LEB128 integer."""
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)


def write_directory(directory: Directory) -> bytes:
    """Serialise a directory; :func:`validate` it first."""
    raised = directory.ir_version is not None
    out = bytearray([raised * IR_RAISED | directory.had_import * HAD_IMPORT])
    if directory.ir_version is not None:
        out += varint(directory.ir_version)
    out += varint(len(directory.entries))
    for entry in directory.entries:
        out += bytes([entry.flags, entry.dtype, len(entry.dims)])
        for dim in entry.dims:
            out += varint(dim)
        out += varint(entry.position)
        if entry.flags & GRAPH_INPUT:
            out += varint(entry.input_position) + varint(len(entry.input_info)) + entry.input_info
        out += varint(entry.payload_bytes)
        out += struct.pack("<II", entry.payload_crc, entry.decoded_crc)
        if entry.flags & HAS_REMAINDER:
            out += varint(len(entry.remainder)) + entry.remainder
    return bytes(out)


def write_header(rest_crc: int, directory: bytes) -> bytes:
    """Return what stands before a directory: magic, version, two checksums."""
    return HEADER.pack(MAGIC, VERSION, rest_crc, zlib.crc32(directory))


def read_header(cursor: Cursor) -> tuple[int, int]:
    """Return the checksums of the rest of the model and of the directory.

    Raises:
        PackedFormatError: if it is no header, or one of a later version.
    """
    what = cursor.what
    magic, version, rest_crc, directory_crc = HEADER.unpack(cursor.take(HEADER.size))
    if magic != MAGIC:
        raise PackedFormatError(f"{what}: wrong magic")
    if version != VERSION:
        raise PackedFormatError(
            f"{what}: format version {version}, this reader knows {VERSION} "
            "(upgrade mlflow-compress)"
        )
    return rest_crc, directory_crc


def read_directory(data: bytes | memoryview) -> Directory:
    """Parse a directory.

    Raises:
        PackedFormatError: if it does not parse; :func:`validate` checks what it says.
    """
    cursor = Cursor(data, "directory")
    flags = cursor.byte()
    if flags & ~(IR_RAISED | HAD_IMPORT):
        raise PackedFormatError(f"directory: unknown flags {flags:#x}")
    ir_version = cursor.varint(1 << 31) if flags & IR_RAISED else None
    count = cursor.varint(MAX_ENTRIES)
    entries = tuple(_read_entry(cursor, number) for number in range(count))
    if cursor.at != len(data):
        raise PackedFormatError(f"directory: {len(data) - cursor.at} bytes are left over")
    return Directory(entries, ir_version, bool(flags & HAD_IMPORT))


def _read_entry(cursor: Cursor, number: int) -> Entry:
    cursor.what = f"directory entry {number}"
    flags, dtype, rank = cursor.take(3)
    if rank > MAX_RANK:
        raise PackedFormatError(f"{cursor.what}: rank {rank} is above the limit {MAX_RANK}")
    dims = tuple(cursor.varint(MAX_TENSOR_BYTES) for _ in range(rank))
    position = cursor.varint(1 << 31)
    input_position, input_info, remainder = 0, b"", b""
    if flags & GRAPH_INPUT:
        input_position = cursor.varint(1 << 31)
        input_info = cursor.take(cursor.varint(MAX_REMAINDER))
    payload_bytes = cursor.varint(MAX_TENSOR_BYTES)
    payload_crc, decoded_crc = cursor.u32(), cursor.u32()
    if flags & HAS_REMAINDER:
        remainder = cursor.take(cursor.varint(MAX_REMAINDER))
    return Entry(
        flags,
        dtype,
        dims,
        position,
        payload_bytes,
        payload_crc,
        decoded_crc,
        input_position,
        input_info,
        remainder,
    )


def validate(directory: Directory, names: Sequence[str], cap: int = DEFAULT_CAP) -> None:
    """Check a directory against the outputs it describes; the writer calls it too.

    Args:
        directory: what was read or is about to be written.
        names: the packed weights' names, in the order of the entries.
        cap: most bytes that all weights together may decode to.

    Raises:
        PackedFormatError: naming the tensor and the rule that is broken.
    """
    if len(names) != len(directory.entries):
        raise PackedFormatError(
            f"directory: {len(directory.entries)} entries for {len(names)} packed weights"
        )
    total = 0
    for name, entry in zip(names, directory.entries, strict=True):
        if entry.flags >> 5:
            raise PackedFormatError(f"tensor '{name}': unknown flags {entry.flags:#x}")
        if entry.flags & CONSTANT_NODE and entry.flags & GRAPH_INPUT:
            raise PackedFormatError(f"tensor '{name}': both a Constant node and a graph input")
        if bits_of(entry.dtype) is None:
            raise PackedFormatError(f"tensor '{name}': data type {entry.dtype} is not packable")
        if len(entry.dims) > MAX_RANK:
            raise PackedFormatError(f"tensor '{name}': rank {len(entry.dims)} > {MAX_RANK}")
        if entry.size > MAX_TENSOR_BYTES:
            raise PackedFormatError(
                f"tensor '{name}': {entry.size} bytes decoded, limit {MAX_TENSOR_BYTES}"
            )
        total += entry.size
        if total > cap:
            raise PackedFormatError(
                f"tensor '{name}': the weights decode to more than the cap of {cap} bytes "
                "(pass a higher max_bytes if the file is trusted)"
            )
