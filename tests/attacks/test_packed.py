"""Attacks on the reader of packed files: each entry is one that was tried.

Checksums are made to fit again where the attack would otherwise end at them: an attacker computes
them too.
"""

import struct
import tracemalloc
import zlib
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import ModelProto

from mlflow_compress import packed
from mlflow_compress.errors import PackedFormatError
from mlflow_compress.packed.codec import arrays
from mlflow_compress.packed.format import (
    HEADER,
    MAGIC,
    VERSION,
    Cursor,
    read_directory,
    varint,
    write_directory,
)
from tests.packed.packed_models import mlp

MODEL = packed.pack(mlp(dims=(60, 40, 10)))
DATA = packed.to_bytes(MODEL)


def rebuilt(change=lambda entries: entries, payloads=lambda data: data, model=MODEL, **header):
    """The packed model with its directory or payloads changed, and every checksum fitting."""
    out = ModelProto()
    out.CopyFrom(model)
    blob = out.graph.initializer[-1]
    cursor = Cursor(blob.raw_data, "blob")
    cursor.take(HEADER.size)
    directory = read_directory(cursor.take(cursor.varint(1 << 20)))
    data = blob.raw_data[cursor.at :]
    entries = change(list(directory.entries))
    at, parts = 0, []
    for entry in directory.entries:
        parts.append(data[at : at + entry.payload_bytes])
        at += entry.payload_bytes
    parts = payloads(parts)
    entries = [
        replace(entry, payload_bytes=len(part), payload_crc=zlib.crc32(part))
        for entry, part in zip(entries, parts, strict=False)
    ] + entries[len(parts) :]
    written = write_directory(replace(directory, entries=tuple(entries)))
    size = HEADER.size + len(varint(len(written))) + len(written) + sum(map(len, parts))
    blob.ClearField("raw_data")
    blob.dims[:] = [size]
    rest = zlib.crc32(out.SerializeToString(deterministic=True))
    head = HEADER.pack(MAGIC, header.get("version", VERSION), rest, zlib.crc32(written))
    blob.raw_data = b"".join([head, varint(len(written)), written, *parts])
    return out


def first(**fields):
    """Change fields of the first entry."""
    return lambda entries: [replace(entries[0], **fields), *entries[1:]]


def payload(data):
    """Give the first weight another payload."""
    return lambda parts: [data, *parts[1:]]


def nested(depth):
    """Codebooks in codebooks."""
    return bytes([arrays.CODEBOOK, 1]) * depth + bytes(2400)


ATTACKS = {
    "a bomb: huge dims": (
        lambda: rebuilt(first(dims=(1 << 20, 1 << 18))),
        "more than the cap",
    ),
    "a bomb: dims whose product overflows 64 bits": (
        lambda: rebuilt(first(dims=(1 << 40,) * 4)),
        "bytes decoded, limit",
    ),
    "a bomb: one constant for 4 GB": (
        lambda: rebuilt(first(dims=(1 << 30,)), payload(bytes([arrays.CONSTANT, 0, 0, 0, 0]))),
        "more than the cap",
    ),
    "dims smaller than the payload": (lambda: rebuilt(first(dims=(60, 39))), "fc0.weight"),
    "another dtype of the same width": (lambda: rebuilt(first(dtype=10)), "fc0.weight"),
    "an unknown dtype": (lambda: rebuilt(first(dtype=99)), "data type 99 is not packable"),
    "strings": (lambda: rebuilt(first(dtype=8)), "data type 8 is not packable"),
    "unknown flags": (lambda: rebuilt(first(flags=128)), "unknown flags"),
    "an input and a constant at once": (lambda: rebuilt(first(flags=5)), "both a Constant"),
    "a position that does not exist": (
        lambda: rebuilt(first(position=1 << 30)),
        "does not exist|another one",
    ),
    "two weights in one position": (lambda: rebuilt(first(position=2)), "another one|not exist"),
    "a remainder that is no message": (
        lambda: rebuilt(first(flags=16, remainder=b"\xff\xff")),
        "does not parse",
    ),
    "a remainder with data of its own": (
        lambda: rebuilt(first(flags=17, remainder=b"")),
        "no Constant node",
    ),
    "a weight too few": (lambda: rebuilt(lambda entries: entries[:-1]), "lengths|entries for"),
    "a weight too many": (lambda: rebuilt(lambda e: [*e, e[0]]), "lengths|entries for"),
    "wrong weights with a fitting payload checksum": (
        lambda: rebuilt(payloads=payload(bytes([arrays.RAW]) + bytes(9600))),
        r"fc0.weight.*decoded bytes are wrong",
    ),
    "another weight's payload": (
        lambda: rebuilt(payloads=lambda parts: [parts[1], *parts[1:]]),
        "fc0.weight",
    ),
    "an empty payload": (lambda: rebuilt(payloads=payload(b"")), "fc0.weight"),
    "an unknown kind": (lambda: rebuilt(payloads=payload(bytes([77]))), "fc0.weight"),
    "recursion without end": (lambda: rebuilt(payloads=payload(nested(10000))), "fc0.weight"),
    "bytes after the payload": (
        lambda: rebuilt(payloads=lambda parts: [parts[0] + b"x", *parts[1:]]),
        "fc0.weight.*left over",
    ),
    "a version from the future": (lambda: rebuilt(version=9), "format version 9"),
    "a node of another name": (
        lambda: edited(lambda m: setattr(m.graph.node[0], "op_type", "Evil")),
        "damaged or changed|unknown node",
    ),
    "a bias changed in the graph": (
        lambda: edited(lambda m: setattr(m.graph.initializer[0], "raw_data", bytes(40))),
        "damaged or changed",
    ),
    "weights in exchanged order": (
        lambda: edited(lambda m: m.graph.node[0].output.reverse()),
        "damaged or changed",
    ),
    "a blob that is no uint8": (
        lambda: edited(lambda m: setattr(m.graph.initializer[-1], "data_type", 3)),
        "damaged or changed|uint8",
    ),
    "a blob in a file elsewhere": (lambda: outside("/etc/passwd"), "must stand beside"),
    "a blob in the folder above": (lambda: outside("../secret"), "must stand beside"),
}


def edited(change):
    out = ModelProto()
    out.CopyFrom(MODEL)
    change(out)
    return out


def outside(location):
    out = ModelProto()
    out.CopyFrom(MODEL)
    blob = out.graph.initializer[-1]
    blob.ClearField("raw_data")
    blob.data_location = 1
    blob.external_data.add(key="location", value=location)
    return out


@pytest.mark.parametrize("name", ATTACKS)
@pytest.mark.parametrize("way", ["model", "bytes", "file"])
def test_attack(name, way, tmp_path):
    make, message = ATTACKS[name]
    attacked = make()
    if way != "model":
        attacked = attacked.SerializeToString()
    if way == "file":
        path = tmp_path / "attack.onnx"
        path.write_bytes(attacked)
        attacked = path
    tracemalloc.start()
    try:
        with pytest.raises(PackedFormatError, match=message):
            packed.verify(attacked)
            packed.unpack(attacked)
        assert tracemalloc.get_traced_memory()[1] < 20e6
        if way != "model":
            with pytest.raises(PackedFormatError, match=message):
                packed.load(attacked)
    finally:
        tracemalloc.stop()


def test_what_was_attacked_is_sound():
    packed.verify(rebuilt())


def test_a_file_cut_off_anywhere_is_refused():
    for end in range(0, len(DATA), 7):
        with pytest.raises(PackedFormatError):
            packed.verify(DATA[:end])


def test_spliced_files_are_refused():
    other = packed.to_bytes(packed.pack(mlp(dims=(60, 40, 10), seed=9)))
    for at in range(50, min(len(DATA), len(other)) - 50, 23):
        if (spliced := DATA[:at] + other[at:]) not in (DATA, other):
            with pytest.raises(PackedFormatError):
                packed.verify(spliced)


def test_a_caller_may_set_the_cap():
    with pytest.raises(PackedFormatError, match="cap of 9000 bytes"):
        packed.unpack(MODEL, max_bytes=9000)
    packed.unpack(MODEL, max_bytes=20000)


def test_what_a_file_may_ask_for_goes_with_its_size():
    from mlflow_compress.packed.format import cap_of

    assert cap_of(None, 300) < 300 << 20
    assert cap_of(None, 4 << 20) < 1400 << 20
    # the highest rate that compressing reaches here is some 600, on a network of 2 MB
    assert cap_of(None, 4000) > 600 * 4000


ORIGINAL = packed.unpack(MODEL)


@settings(max_examples=1000, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_whatever_is_done_to_a_file_it_is_refused_or_the_same(data):
    changed = bytearray(DATA)
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(changed) - 1))
        how = data.draw(st.sampled_from(["set", "cut", "insert", "repeat"]))
        if how == "set":
            changed[at] = data.draw(st.integers(0, 255))
        elif how == "cut":
            del changed[at : at + data.draw(st.integers(1, 40))]
        elif how == "insert":
            changed[at:at] = data.draw(st.binary(min_size=1, max_size=8))
        else:
            changed[at:at] = changed[at : at + 20]
        if not changed:
            break
    try:
        model = packed.unpack(bytes(changed))
    except PackedFormatError:
        return
    assert model == ORIGINAL


@settings(max_examples=1000, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_a_directory_with_fitting_checksums_may_say_anything(data):
    def change(entries):
        field = data.draw(st.sampled_from(["flags", "dtype", "dims", "position", "remainder"]))
        values = {
            "flags": st.integers(0, 255),
            "dtype": st.integers(0, 255),
            "dims": st.lists(st.integers(0, 100), max_size=4).map(tuple),
            "position": st.integers(0, 9),
            "remainder": st.binary(max_size=20),
        }
        return first(**{field: data.draw(values[field])})(entries)

    def payloads(parts):
        out = bytearray(parts[0])
        for _ in range(data.draw(st.integers(0, 3))):
            out[data.draw(st.integers(0, len(out) - 1))] = data.draw(st.integers(0, 255))
        return [bytes(out), *parts[1:]]

    try:
        attacked = rebuilt(change, payloads)
    except (struct.error, PackedFormatError):
        return
    try:
        packed.unpack(attacked)
    except PackedFormatError:
        return
    assert np.array_equal(attacked.graph.node[0].output, MODEL.graph.node[0].output)
