"""Damaged and hostile portable files: refused by name and cause."""

import base64
import zlib
from dataclasses import replace
from functools import cache

import numpy as np
import onnx
import portable_models as models
import pytest
from onnx import helper

from mlflow_compress import packed
from mlflow_compress.errors import PackedFormatError
from mlflow_compress.packed.codec import backends
from mlflow_compress.packed.format import (
    HEADER,
    MAGIC,
    VERSION,
    read_directory,
    write_directory,
)
from mlflow_compress.packed.portable import write as portable
from mlflow_compress.packed.portable.tensor import INPUTS
from tests.packed.codecs import need_c, use_numpy


@pytest.fixture(autouse=True, params=["c", "numpy"])
def backend(request, monkeypatch):
    """Both readers must refuse the same files."""
    if request.param == "numpy":
        use_numpy(monkeypatch)
        monkeypatch.setenv(backends.VARIABLE, "numpy")
    else:
        need_c()


@cache
def packed_bytes(kind):
    return models.serial(packed.pack(models.of_kind(kind), "portable"))


def packed_of(kind):
    return onnx.ModelProto.FromString(packed_bytes(kind))


def resigned(model):
    """The model with checksums that fit it again: what an attacker can always do."""
    text = model.metadata_props.pop()
    data = base64.b64decode(text.value)
    directory = read_directory(data[HEADER.size :])
    held = {tensor.name: tensor.raw_data for tensor in model.graph.initializer}
    nodes = models.weight_nodes(model)
    entries = list(directory.entries)
    for place, node in enumerate(nodes):
        payload = b"".join(held[name] for name in node.input if name in held)
        entries[place] = replace(
            entries[place], payload_bytes=len(payload), payload_crc=zlib.crc32(payload)
        )
    listed = write_directory(replace(directory, entries=tuple(entries)))
    crc = portable.rest_crc(model, sum(name in held for node in nodes for name in node.input))
    head = HEADER.pack(MAGIC, VERSION, crc, zlib.crc32(listed))
    model.metadata_props.add(key=text.key, value=base64.b64encode(head + listed).decode())
    return model


def initializer(model, node, place):
    """What the node of a weight reads in one place, streams of all weights not counted."""
    held = {tensor.name: tensor for tensor in model.graph.initializer}
    inputs = models.weight_nodes(model)[node].input
    return [held[name] for name in inputs if name in held][place]


@pytest.mark.parametrize("kind", models.KINDS)
def test_every_initializer_is_covered_by_a_checksum(kind):
    whole = packed_of(kind)
    for place in range(INPUTS[kind]):
        model = onnx.ModelProto.FromString(models.serial(whole))
        tensor = initializer(model, 0, place)
        data = bytearray(tensor.raw_data)
        data[len(data) // 2] ^= 4
        tensor.raw_data = bytes(data)
        for read in (packed.verify, packed.unpack, lambda m: packed.load(models.serial(m))):
            with pytest.raises(PackedFormatError, match=r"tensor 'w0': packed bytes are damaged"):
                read(model)


def changed_function(model):
    model.functions[-1].node[0].op_type = "Neg"


def changed_shape(model):
    node = models.weight_nodes(model)[0]
    next(a for a in node.attribute if a.name == "shape").ints[0] += 1


def _of_streams(model, name):
    return next(a for a in model.graph.node[3].attribute if a.name == name).ints


def other_roots(model):
    _of_streams(model, "forest")[4] += 2


def other_segments(model):
    _of_streams(model, "segments")[1] += 1


def swapped_starts(model):
    names = model.graph.node[1].input
    names[0], names[1] = names[1], names[0]


def moved_places(model):
    for attribute in models.weight_nodes(model)[0].attribute:
        if attribute.name in ("at", "to", "end"):
            attribute.ints[:] = [(list(attribute.ints) or [0])[0] + 1]


def other_kind(model):
    models.weight_nodes(model)[0].op_type = "Fixed"


def fewer_nodes(model):
    model.graph.node.remove(models.weight_nodes(model)[0])


def swapped_inputs(model):
    node = models.weight_nodes(model)[0]
    node.input[1], node.input[2] = node.input[2], node.input[1]


def renamed_info(model):
    model.graph.value_info[-1].name = "other"


def further_initializer(model):
    model.graph.initializer.add(name="more", data_type=1, dims=[0])


@pytest.mark.parametrize(
    "change",
    [
        *(changed_function, changed_shape, other_kind, fewer_nodes),
        *(swapped_inputs, renamed_info, further_initializer),
    ],
)
def test_a_changed_graph_is_refused(change):
    model = packed_of("Sparse")
    change(model)
    with pytest.raises(PackedFormatError, match=r"^(graph|directory|tensor 'w0'): "):
        packed.unpack(model)


@pytest.mark.parametrize(
    ("change", "cause"),
    [
        (other_roots, "streams that are decoded are not those"),
        (other_segments, "streams that are decoded are not those"),
        (swapped_starts, "streams that are decoded are not those"),
        (moved_places, "tensor 'w0': its streams do not begin at 0"),
        (changed_shape, "tensor 'w0': its shape is not the directory's"),
        (other_kind, "node 'Fixed' has 9 inputs"),
        (fewer_nodes, "unknown node 'MatMul' among the weights'"),
        (renamed_info, "value_info are not those"),
        (further_initializer, "initializers are not those"),
    ],
)
def test_a_changed_graph_with_a_new_checksum_is_refused_too(change, cause):
    model = packed_of("Sparse")
    change(model)
    with pytest.raises(PackedFormatError, match=cause):
        packed.unpack(resigned(model))


def test_more_places_than_items_are_refused_before_anything_is_allocated():
    model = packed_of("Gaps")
    node = models.weight_nodes(model)[0]
    next(a for a in node.attribute if a.name == "to").ints[0] = 1 << 50
    with pytest.raises(PackedFormatError, match="1125899906842624 items in 720000 places"):
        packed.unpack(resigned(model))


def test_segments_of_another_size_are_refused():
    model = packed_of("Huffman")
    tensor = initializer(model, 0, 0)
    segments, step = tensor.dims
    tensor.dims[:] = [segments // 2, 2 * step]
    tensor.raw_data = tensor.raw_data[: segments // 2 * 2 * step]
    starts = initializer(model, 0, 1)
    starts.dims[0] = segments // 2
    starts.raw_data = starts.raw_data[: segments // 2]
    with pytest.raises(PackedFormatError, match=r"tensor 'w0': segments of (128|256) bytes|lead"):
        packed.unpack(resigned(model))


def test_a_data_type_that_the_profile_has_not_is_refused():
    model = packed_of("Fixed")
    text = model.metadata_props[-1]
    data = base64.b64decode(text.value)
    directory = read_directory(data[HEADER.size :])
    entries = (replace(directory.entries[0], dtype=onnx.TensorProto.INT4),)
    listed = write_directory(replace(directory, entries=entries))
    text.value = base64.b64encode(data[: HEADER.size] + listed).decode()
    with pytest.raises(PackedFormatError, match=r"tensor 'w0': (data type 22|\d+ packed bytes)"):
        packed.unpack(resigned(model))


@pytest.mark.parametrize("dims", [[-1], [1 << 40], []])
def test_shapes_that_do_not_fit_the_bytes_are_refused(dims):
    model = packed_of("Huffman")
    tensor = initializer(model, 0, 0)
    tensor.ClearField("dims")
    tensor.dims.extend(dims)
    with pytest.raises(PackedFormatError, match="has not as many bytes as its shape"):
        packed.unpack(resigned(model))


def test_a_bomb_is_refused_by_its_declared_size():
    with pytest.raises(PackedFormatError, match="the weights decode to more than the cap of 1000"):
        packed.unpack(packed_of("SparseLevels"), max_bytes=1000)


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        ("%%%", "not base64"),
        ("", "directory: ends after 0 bytes"),
        (base64.b64encode(bytes(40)).decode(), "wrong magic"),
        (base64.b64encode(b"MLCP\x09" + bytes(30)).decode(), "format version 9"),
        (base64.b64encode(b"MLCP\x01" + bytes(30)).decode(), "damaged"),
    ],
)
def test_a_bad_directory_is_refused(text, cause):
    model = packed_of("Levels")
    model.metadata_props[-1].value = text
    with pytest.raises(PackedFormatError, match=cause):
        packed.unpack(model)


def test_functions_of_the_model_itself_stay():
    plain = models.of_kind("Levels")
    double = helper.make_function(
        "own", "Double", ["a"], ["b"], [helper.make_node("Add", ["a", "a"], ["b"])],
        [helper.make_opsetid("", 20)],
    )  # fmt: skip
    plain.functions.append(double)
    plain.opset_import.append(helper.make_opsetid("own", 1))
    plain.graph.node.append(helper.make_node("Double", ["x"], ["d"], domain="own"))
    out = packed.pack(plain, "portable")
    onnx.checker.check_model(out, full_check=True)
    assert models.serial(packed.unpack(out)) == models.serial(plain)


def test_any_damaged_byte_is_refused_or_harmless():
    """Flip bytes all over a small file: an error with one line, or the same weights."""
    whole = packed_of("SparseLevels")
    data = models.serial(whole)
    wanted = models.serial(packed.unpack(data))
    rng = np.random.default_rng(0)
    refused = 0
    for place in rng.choice(len(data), 300, replace=False):
        bad = bytearray(data)
        bad[place] ^= 1 << int(rng.integers(8))
        try:
            got = packed.unpack(bytes(bad))
        except PackedFormatError as error:
            assert "\n" not in str(error)
            refused += 1
        else:
            assert models.serial(got) == wanted
    assert refused > 250


def damage(model, rng):
    """Change bytes, a length, a shape or an attribute of what the first node reads."""
    node = models.weight_nodes(model)[0]
    tensor = initializer(model, 0, int(rng.integers(INPUTS[node.op_type])))
    kind = rng.integers(4)
    if kind < 2 and tensor.raw_data:
        data = bytearray(tensor.raw_data)
        for place in rng.integers(len(data), size=1 + kind):
            data[place] ^= int(rng.integers(1, 256))
        tensor.raw_data = bytes(data)
    elif kind == 2:
        more = int(rng.integers(1, 4))
        tensor.raw_data += bytes(more)
        tensor.dims[0] += more
    else:
        numbers = node.attribute[int(rng.integers(len(node.attribute)))].ints
        numbers[int(rng.integers(len(numbers)))] = int(rng.choice([-1, 0, 1, 1 << 50]))


@pytest.mark.parametrize("kind", models.KINDS)
def test_hostile_parts_with_fitting_checksums_are_refused_in_one_line(kind):
    weights = models.KINDS[kind]()[:1]
    data = models.serial(packed.pack(models.chain(*weights), "portable"))
    wanted = models.serial(models.chain(*weights))
    rng = np.random.default_rng(7)
    refused = 0
    for _ in range(40):
        model = onnx.ModelProto.FromString(data)
        damage(model, rng)
        try:
            got = packed.unpack(resigned(model))
        except PackedFormatError as error:
            assert "\n" not in str(error)
            refused += 1
        else:
            assert models.serial(got) == wanted
    assert refused > 20
