"""The same model packs to the same bytes, on every machine and in every release of format 1.

A failure here means that files already on devices and their checksums in registries no longer
match what packing writes. Change a number only with a reason in the changelog.
"""

import hashlib

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from mlflow_compress.packed import packing, to_bytes
from mlflow_compress.packed.codec import arrays, choose
from tests.packed.codecs import need_c, use_numpy


def numbers(count, seed=1):
    """Pseudo-random bytes that depend on no library: a linear congruential generator."""
    out, state = np.empty(count, np.uint8), seed
    for i in range(count):
        state = (state * 6364136223846793005 + 1442695040888963407) % (1 << 64)
        out[i] = state >> 56
    return out


NOISE = numbers(40000)
SMALL = (NOISE.astype(np.int16) * NOISE[::-1] >> 9).astype(np.uint8)
ROWS = (SMALL.reshape(-1, 50) >> np.arange(800)[:, None] % 4).astype(np.uint8)
HOLES = np.where(numbers(40000, 7) < 230, 0, SMALL).astype(np.uint8)
WALK = (np.cumsum(NOISE.reshape(-1, 50) % 7, axis=1) >> 2).astype(np.uint8)
FLOATS = (SMALL.astype(np.uint32) << 20) + (0x3F000000 + NOISE.astype(np.uint32) * 12345)
ARRAYS = {
    "noise": (NOISE, 0, 0, "raw", "bc455e964725a680"),
    "huffman": (SMALL, 0, 0, "huffman", "418488836d5fe437"),
    "one lane": (SMALL[:900], 0, 0, "huffman", "321f569b836fc4ed"),
    "rows": (ROWS, 50, 0, "rows", "b44f69810b700115"),
    "sparse": (HOLES, 0, 0, "gaps", "61f3198db3728dda"),
    "context": (WALK, 50, 50, "context", "b07991e80ccea857"),
    "several to a byte": (SMALL % 3, 0, 0, "packed", "0fe6a8478cbaaf10"),
    "codebook": (SMALL.astype(np.uint32)[::2] % 40 * 7919, 0, 0, "codebook", "daca66351920bfa3"),
    "wide codebook": (
        NOISE.astype(np.uint32) * 40503 + NOISE[::-1] % 3,
        0,
        0,
        "codebook",
        "ac6af12e357ae206",
    ),
    "planes": (FLOATS, 0, 0, "planes", "67e2e78b76e1bd0e"),
}


@pytest.fixture(params=["c", "numpy"])
def either(request, monkeypatch):
    if request.param == "numpy":
        use_numpy(monkeypatch)
    else:
        need_c()


def digest(data):
    return hashlib.sha256(data).hexdigest()[:16]


@pytest.mark.parametrize("name", ARRAYS)
def test_payloads(either, name):
    array, row, taps, kind, expected = ARRAYS[name]
    data = array.astype(array.dtype.newbyteorder("<")).tobytes()
    payload = choose.encode(data, array.itemsize, name == "planes", row, taps)
    assert arrays.NAMES[payload[0]] == kind
    assert digest(payload) == expected


def test_a_compact_model(either):
    weight = numpy_helper.from_array(ROWS.astype(np.float32), "w")
    node = helper.make_node("MatMul", ["x", "w"], ["y"], name="m")
    graph = helper.make_graph(
        [node],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 800])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 50])],
        [weight],
    )
    model = helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 20)])
    packed = to_bytes(packing.pack(model, profile="compact"))
    assert onnx.load_from_string(packed).ir_version == 10
    assert digest(packed) == "9f4cdcdba378b2e9"
