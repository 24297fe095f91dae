"""The bytes of portable files do not change: whoever changes them raises the format's version.

Models and files are made from integers alone, so neither numpy's generators nor its rounding play
a part. The files are compared by their sha256, with both backends.
"""

import hashlib

import numpy as np
import pytest
from onnx import TensorProto, helper

from mlflow_compress import packed
from mlflow_compress.packed.codec import backends
from tests.packed.codecs import need_c, use_numpy


@pytest.fixture(autouse=True, params=["c", "numpy"])
def backend(request, monkeypatch):
    if request.param == "numpy":
        use_numpy(monkeypatch)
        monkeypatch.setenv(backends.VARIABLE, "numpy")
    else:
        need_c()


def noise(count, seed):
    """Integers below 2^31: a linear congruential generator (Numerical Recipes, 7.1)."""
    out, state = np.empty(count, np.int64), seed
    for place in range(count):
        state = (1664525 * state + 1013904223) & 0xFFFFFFFF
        out[place] = state >> 1
    return out


def peaked(count, seed):
    """int8 around 0: how many of 24 bits are set, less 12, three times over."""
    bits = noise(count, seed)[:, None] >> np.arange(7, 31) & 1
    return (3 * (bits.sum(1) - 12)).astype(np.int8)


def hollow(count, seed, values):
    """float32 of which nine in ten are 0, the others one of so many values (0: all differ)."""
    drawn = noise(count, seed)
    full = drawn % values - values // 2 if values else drawn % 1_000_003
    return np.where(drawn >> 8 & 1023 < 102, full, 0).astype(np.float32)


def model_of(*weights):
    """Each weight into an output of its own."""
    nodes, outputs, held = [], [], []
    for number, weight in enumerate(weights):
        dtype = {"float32": TensorProto.FLOAT, "int8": TensorProto.INT8}[weight.dtype.name]
        raw = weight.astype(weight.dtype.newbyteorder("<")).tobytes()
        held.append(
            TensorProto(name=f"w{number}", data_type=dtype, dims=weight.shape, raw_data=raw)
        )
        nodes.append(helper.make_node("Neg", [f"w{number}"], [f"y{number}"]))
        outputs.append(helper.make_tensor_value_info(f"y{number}", dtype, weight.shape))
    graph = helper.make_graph(nodes, "golden", [], outputs, held)
    return helper.make_model(
        graph,
        opset_imports=[helper.make_opsetid("", 18)],
        ir_version=9,
        producer_name="golden",
    )


GOLDEN = {
    "fixed": (
        ["Fixed"],
        lambda: model_of((noise(2048, 1) % 16).astype(np.float32).reshape(32, 64)),
    ),
    "levels": (["Levels"], lambda: model_of(peaked(9000, 2).reshape(90, 100))),
    "levels of sparse": (
        ["SparseLevels", "SparseLevels"],
        lambda: model_of(hollow(30_000, 3, 13).reshape(30, -1), hollow(20_000, 4, 9)),
    ),
    "levels of gaps": (["GapsLevels"], lambda: model_of(hollow(40_000, 5, 0))),
    "streams": (
        ["Huffman", "Sparse", "Gaps"],
        lambda: model_of(
            peaked(120_000, 6).reshape(2, 3, 100, -1),
            hollow(120_000, 7, 11).reshape(300, -1),
            hollow(90_000, 8, 0),
        ),
    ),
    "nothing": ([], lambda: model_of(noise(500, 9).astype(np.float32))),
}

DIGESTS = {
    "fixed": (1624, "b012ceafa114a3efac5981b0833ebf5d53efd8494b283b3ea10f13df7483fe85"),
    "levels": (5391, "92dbc4c7242a71a65d6136f3c670211c32e724eb4a4a81414da18ec45932dcf0"),
    "levels of sparse": (7071, "e762dec2a15b1b839d1e1005a9eab4bc92d6bfa23d7ec8d98809208b2cbb1856"),
    "levels of gaps": (20211, "dc942ae491ab7b20343a9e6d1d9537a08bd382134ba46434e951dfd2f4689907"),
    "streams": (111031, "cef1430afeccbcd6341caf7b3b9fe45700959625b2653f147dce62ee9b794942"),
    "nothing": (2138, "1715c8625b676062fca09119771318f9c44505040a628837bd0840e29a016447"),
}


@pytest.mark.parametrize("name", GOLDEN)
def test_a_model_is_packed_to_these_bytes(name):
    kinds, make = GOLDEN[name]
    model = make()
    out = packed.pack(model, "portable")
    assert [
        node.op_type
        for node in out.graph.node
        if node.domain == "mlflow_compress" and node.op_type != "Streams"
    ] == kinds
    data = out.SerializeToString(deterministic=True)
    assert (len(data), hashlib.sha256(data).hexdigest()) == DIGESTS[name]
    plain = model.SerializeToString(deterministic=True)
    assert packed.unpack(data).SerializeToString(deterministic=True) == plain
