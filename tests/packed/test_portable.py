"""The portable profile on the current onnxruntime and on onnx's own reference."""

import tracemalloc

import numpy as np
import onnx
import onnxruntime
import packed_models
import portable_models as models
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from mlflow_compress import packed
from mlflow_compress.errors import SourceError


def session(model, **settings):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    for name, value in settings.items():
        setattr(options, name, value)
    data = model if isinstance(model, bytes) else models.serial(model)
    return onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])


def optimised(model, folder):
    """The graph that onnxruntime runs."""
    path = folder / "optimised.onnx"
    basic = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    session(model, optimized_model_filepath=str(path), graph_optimization_level=basic)
    return onnx.load(path)


@pytest.mark.parametrize("kind", models.KINDS)
def test_onnxruntime_decodes_each_kind_while_it_creates_the_session(kind, tmp_path):
    plain = models.of_kind(kind)
    out = packed.pack(plain, "portable")
    assert set(models.kinds(out)) == {kind}
    assert len(models.serial(out)) < len(models.serial(plain))
    x = models.x_for(plain)
    assert np.array_equal(
        session(out).run(None, {"x": x})[0], session(plain).run(None, {"x": x})[0]
    )
    left, before = optimised(out, tmp_path), optimised(plain, tmp_path)
    assert [node.op_type for node in left.graph.node] == [n.op_type for n in before.graph.node]
    weights = [
        {t.name: numpy_helper.to_array(t) for t in m.graph.initializer} for m in (left, before)
    ]
    assert weights[0].keys() == weights[1].keys()
    assert all(np.array_equal(weights[0][name], weights[1][name]) for name in weights[1])


@pytest.mark.parametrize("kind", models.KINDS)
def test_the_file_is_valid_onnx_and_the_reference_evaluator_agrees(kind):
    plain = models.of_kind(kind)
    out = packed.pack(plain, "portable")
    packed_models.check(out)
    names = [node.output[0] for node in models.weight_nodes(out)]
    shapes = {
        tensor.name: (tensor.data_type, list(tensor.dims)) for tensor in plain.graph.initializer
    }
    asked = onnx.ModelProto.FromString(models.serial(out))
    del asked.graph.output[:]
    asked.graph.output.extend(helper.make_tensor_value_info(n, *shapes[n]) for n in names)
    got = ReferenceEvaluator(asked).run(None, {"x": models.x_for(plain)})
    for name, value in zip(names, got, strict=True):
        wanted = next(t for t in plain.graph.initializer if t.name == name)
        assert value.tobytes() == numpy_helper.to_array(wanted).tobytes()


@pytest.mark.parametrize("kind", models.KINDS)
def test_pack_is_lossless_deterministic_and_read_natively(kind, tmp_path):
    plain = models.of_kind(kind)
    before = models.serial(plain)
    out = packed.pack(plain, "portable")
    assert models.serial(plain) == before
    assert models.serial(packed.pack(plain, "portable")) == models.serial(out)
    assert models.serial(packed.unpack(models.serial(out))) == before
    path = tmp_path / "p.onnx"
    packed.save(out, path)
    packed.verify(path)
    x = models.x_for(plain)
    expected = session(plain).run(None, {"x": x})[0]
    assert np.array_equal(packed.load(path).run(None, {"x": x})[0], expected)
    info = packed.inspect(path)
    assert info.profile == "portable"
    assert [tensor.shape for tensor in info.tensors] == [
        tuple(t.dims) for t in plain.graph.initializer
    ]


def test_without_optimisation_weights_are_decoded_on_each_run():
    weight = models.sparse((200, 300))
    plain = packed_models.of_weights([weight], opset=20, ir_version=10)
    out = packed.pack(plain, "portable")
    assert models.kinds(out)
    disabled = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    slow = session(out, graph_optimization_level=disabled)
    for _ in range(2):
        assert slow.run(None, {})[0].tobytes() == weight.tobytes()


@pytest.mark.parametrize("opset", range(13, 26))
def test_every_opset_from_13_on(opset, tmp_path):
    plain = models.chain(models.sparse((200, 300)), models.dense((300, 400)), opset=opset)
    out = packed.pack(plain, "portable")
    packed_models.check(out)
    assert models.kinds(out)
    x = models.x_for(plain)
    assert np.array_equal(
        session(out).run(None, {"x": x})[0], session(plain).run(None, {"x": x})[0]
    )
    assert not models.calls(optimised(out, tmp_path))


def test_an_older_opset_is_refused():
    with pytest.raises(SourceError, match="opset is 12, the portable profile needs 13"):
        packed.pack(models.chain(models.dense((64, 64)), opset=12), "portable")


def test_an_older_ir_version_is_raised_and_restored():
    plain = models.chain(models.dense((96, 128), 2.0), opset=13, ir_version=7)
    out = packed.pack(plain, "portable")
    assert out.ir_version == 8
    assert packed.unpack(out).ir_version == 7


DTYPES = [
    *("float16", "float32", "float64", "bool"),
    *("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("make", [models.sparse, models.indices])
def test_every_dtype_that_runtimes_gather(dtype, make, tmp_path):
    weight = make((90, 80), dtype=np.float32).astype(dtype)
    model = packed_models.of_weights([weight], opset=20, ir_version=10)
    # a graph output is not folded, so the weight is used by a node that makes one
    model.graph.node[0].op_type = "Identity" if dtype == "bool" else "Cast"
    if dtype != "bool":
        model.graph.node[0].attribute.append(helper.make_attribute("to", TensorProto.DOUBLE))
        model.graph.output[0].type.tensor_type.elem_type = TensorProto.DOUBLE
    out = packed.pack(model, "portable")
    if len(np.unique(weight)) > 1:
        assert models.kinds(out)
    assert np.array_equal(session(out).run(None, {})[0], session(model).run(None, {})[0])
    assert models.serial(packed.unpack(out)) == models.serial(model)


@pytest.mark.parametrize(
    "dtype",
    [TensorProto.BFLOAT16, TensorProto.INT4, TensorProto.UINT4, TensorProto.FLOAT8E4M3FN],
)
def test_other_dtypes_come_back_whether_coded_or_raw(dtype):
    size = 4096 * (2 if dtype == TensorProto.BFLOAT16 else 1)
    divisor = 2 if dtype in (TensorProto.INT4, TensorProto.UINT4) else 1
    raw = np.random.default_rng(0).choice([0, 0, 0, 17], size // divisor).astype(np.uint8).tobytes()
    tensor = TensorProto(name="w0", data_type=dtype, dims=[64, 64], raw_data=raw)
    model = packed_models.of_weights([tensor])
    out = packed.pack(model, "portable")
    packed_models.check(out)
    assert bool(models.kinds(out)) == (dtype == TensorProto.BFLOAT16)
    assert models.serial(packed.unpack(out)) == models.serial(model)


def test_bit_patterns_survive():
    weight = np.zeros(4000, np.float32)
    weight[::50] = -0.0
    weight[1::70] = np.nan
    weight.view(np.uint32)[2::80] = 0x7FC00123
    weight[3::90] = np.float32(1e-45)
    model = packed_models.of_weights([weight], opset=20, ir_version=10)
    out = packed.pack(model, "portable")
    assert models.kinds(out)
    assert session(out).run(None, {})[0].tobytes() == weight.tobytes()
    assert models.serial(packed.unpack(out)) == models.serial(model)


EDGES = {
    "gaps above 255": lambda: np.eye(1, 9000, 8000, dtype=np.float32),
    "gaps of exactly 255 and 256": lambda: (
        np.isin(np.arange(40_000), np.cumsum([255, 256] * 70)).astype(np.float32).reshape(1, -1)
    ),
    "last item": lambda: np.eye(1, 5000, 4999, dtype=np.float32),
    "first item": lambda: np.eye(1, 5000, 0, dtype=np.float32),
    "one value": lambda: np.full((50, 60), 2.5, np.float32),
    "two values, one of them once": lambda: (
        np.where(np.arange(70_000) == 5, 1, 2).astype(np.int8).reshape(7, -1)
    ),
    "0-d": lambda: np.array(1.5, np.float32),
    "empty": lambda: np.zeros((0, 7), np.float32),
    "257 values": lambda: np.arange(90_000).reshape(300, 300).astype(np.int16) % 257,
    "1024 values": lambda: (np.arange(262_144) ** 2 % 1024).astype(np.float32).reshape(64, -1),
    "1025 values": lambda: np.arange(1025, dtype=np.float32).repeat(9),
    "background at the end of the alphabet": lambda: (
        255 - models.sparse((300, 300), dtype=np.float32).astype(bool).astype(np.uint8)
    ),
    "4-d": lambda: models.dense((16, 8, 3, 3), 1.0),
}


@pytest.mark.parametrize("edge", EDGES)
def test_edges(edge):
    model = packed_models.of_weights([EDGES[edge]()], opset=20, ir_version=10)
    out = packed.pack(model, "portable")
    packed_models.check(out)
    assert session(out).run(None, {})[0].tobytes() == model.graph.initializer[0].raw_data
    assert models.serial(packed.unpack(out)) == models.serial(model)


def test_mixed_kinds_share_functions(tmp_path):
    weights = [
        *(models.sparse((500, 800), 0.2), models.dense((800, 700))),
        *(models.sparse((700, 600), 0.2, centroids=0), models.indices((600, 300))),
    ]
    plain = models.chain(*weights)
    out = packed.pack(plain, "portable")
    assert models.kinds(out) == ["Sparse", "Huffman", "Gaps", "Fixed"]
    assert len({(f.domain, f.name) for f in out.functions}) == len(out.functions) == 9
    x = models.x_for(plain)
    assert np.array_equal(
        session(out).run(None, {"x": x})[0], session(plain).run(None, {"x": x})[0]
    )
    assert not models.calls(optimised(out, tmp_path))
    assert models.serial(packed.unpack(out)) == models.serial(plain)


def test_many_weights_take_few_more_nodes_than_one():
    """What ONNX Runtime folds per weight, in a time that grows faster than the nodes."""
    weights = [models.dense((300, 300), 8.0 + i, seed=i) for i in range(12)]
    few, many = (packed.pack(models.chain(*weights[:n]), "portable") for n in (1, 12))
    assert models.kinds(many) == ["Huffman"] * 12
    assert [node.op_type for node in many.graph.node][:4] == ["Concat"] * 3 + ["Streams"]
    assert folded_nodes(many) - folded_nodes(few) <= 11 * 10
    x = models.x_for(models.chain(*weights))
    assert np.array_equal(
        session(many).run(None, {"x": x})[0],
        session(models.chain(*weights)).run(None, {"x": x})[0],
    )


def folded_nodes(model):
    """Nodes after every function is written out, those of the plain model included."""
    bodies = {(function.domain, function.name): function.node for function in model.functions}

    def count(nodes):
        known = [bodies.get((node.domain, node.op_type)) for node in nodes]
        return sum(1 if body is None else count(body) for body in known)

    return count(model.graph.node)


def test_streams_of_wide_and_narrow_alphabets_go_together():
    wide = (np.arange(262_144) ** 2 % 1024).astype(np.float32).reshape(512, -1)
    plain = models.chain(models.dense((300, 512)), wide, models.sparse((512, 900), 0.2))
    out = packed.pack(plain, "portable")
    assert models.kinds(out) == ["Huffman", "Huffman", "Sparse"]
    x = models.x_for(plain)
    assert np.array_equal(
        session(out).run(None, {"x": x})[0], session(plain).run(None, {"x": x})[0]
    )
    assert models.serial(packed.unpack(out)) == models.serial(plain)


def test_a_model_with_nothing_to_gain_carries_no_function_and_says_so(caplog):
    weight = np.random.default_rng(0).normal(size=(30, 40)).astype(np.float32)
    plain = models.chain(weight)
    with caplog.at_level("INFO"):
        out = packed.pack(plain, "portable")
    assert [record.message for record in caplog.records] == [
        "portable: no weight gets smaller by being coded, all stay as they are"
    ]
    assert not out.functions and not models.kinds(out)
    assert {tensor.encoding for tensor in packed.inspect(out).tensors} == {"raw"}
    assert 0 < out.ByteSize() - plain.ByteSize() <= 80
    assert models.serial(packed.unpack(out)) == models.serial(plain)


def test_weights_stay_raw_where_a_session_may_take_little_memory():
    weights = [models.sparse((500, 800), 0.2), models.dense((800, 700)), models.dense((700, 300))]
    plain = models.chain(*weights)
    coded = [
        models.kinds(packed.pack(plain, "portable", session_bytes=most << 20))
        for most in (0, 20, 40, 100)
    ]
    # pruned weights save most for the memory that decoding them takes
    assert [len(kinds) for kinds in coded] == [0, 1, 2, 3]
    assert coded[1] == ["Sparse"]
    out = packed.pack(plain, "portable", session_bytes=20 << 20)
    assert models.serial(packed.unpack(out)) == models.serial(plain)


@pytest.mark.parametrize(
    "make",
    [
        lambda: np.random.default_rng(0).normal(size=(2000, 1500)).astype(np.float32),
        lambda: models.sparse((2000, 1500)),
        lambda: models.dense((4000, 1500)),
    ],
)
def test_packing_takes_little_memory(make):
    """What numpy and Python take; the model's own copy is not among it."""
    plain = models.chain(make())
    packed.pack(models.chain(models.dense((300, 300))), "portable")
    tracemalloc.start()
    try:
        packed.pack(plain, "portable")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 3 * plain.ByteSize() + (60 << 20)


def test_what_a_graph_gives_out_stays_raw():
    tensor = numpy_helper.from_array(models.sparse((90, 90)), "w")
    info = helper.make_tensor_value_info("w", 1, [90, 90])
    graph = helper.make_graph([], "g", [], [info], [tensor])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    assert not models.kinds(packed.pack(model, "portable"))


def test_weights_in_constant_nodes_and_used_in_subgraphs(tmp_path):
    weight = models.sparse((120, 90))
    constant = helper.make_node("Constant", [], ["w"], value=numpy_helper.from_array(weight))
    branch = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["b"])],
        "branch",
        [],
        [helper.make_tensor_value_info("b", 1, None)],
    )
    choice = helper.make_node("If", ["flag"], ["y"], then_branch=branch, else_branch=branch)
    graph = helper.make_graph(
        [constant, choice],
        "g",
        [
            helper.make_tensor_value_info("x", 1, ["N", 120]),
            helper.make_tensor_value_info("flag", TensorProto.BOOL, []),
        ],
        [helper.make_tensor_value_info("y", 1, ["N", 90])],
    )
    plain = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    out = packed.pack(plain, "portable")
    assert models.kinds(out)
    feeds = {"x": np.ones((2, 120), np.float32), "flag": np.array(True)}
    assert np.array_equal(session(out).run(None, feeds)[0], session(plain).run(None, feeds)[0])
    assert [node.op_type for node in optimised(out, tmp_path).graph.node] == ["If"]
    assert models.serial(packed.unpack(out)) == models.serial(plain)


def test_names_of_the_model_are_not_taken():
    plain = models.chain(models.sparse((200, 300)))
    for place, name in enumerate("abcdefgh"):
        plain.graph.initializer.append(numpy_helper.from_array(np.float32(place).reshape(1), name))
        plain.graph.node.append(helper.make_node("Identity", [name], [f"{name}_out"]))
    out = packed.pack(plain, "portable")
    packed_models.check(out)
    assert models.serial(packed.unpack(out)) == models.serial(plain)


def test_the_fixed_cost_stays_small():
    """Bytes that the functions add, by kind; the numbers in docs/format.md."""
    most = {
        "Fixed": 290,
        "Levels": 1340,
        "SparseLevels": 1750,
        "GapsLevels": 1620,
        "Huffman": 4000,
        "Sparse": 4400,
        "Gaps": 4250,
    }
    for kind, limit in most.items():
        out = packed.pack(models.of_kind(kind), "portable")
        assert sum(function.ByteSize() + 3 for function in out.functions) < limit


def test_a_small_pruned_model_pays_little_more_than_compact():
    model = packed_models.mlp(centroids=16)
    portable, compact = (packed.pack(model, profile) for profile in ("portable", "compact"))
    assert portable.ByteSize() - compact.ByteSize() < 2600


def test_constant_scales_do_not_multiply_the_memory_of_dense_weights():
    rng = np.random.default_rng(5)
    dense = np.clip(rng.standard_normal((1200, 300)) * 30, -127, 127).astype(np.int8)
    # 1,203 zero points, so that no indices of fixed width fit them
    zeros = np.zeros((401, 3), np.int8)
    out = packed.pack(models.chain(dense, zeros), "portable")
    streams = next(node for node in out.graph.node if node.op_type == "Streams")
    slots = {tuple(a.ints) for a in streams.attribute if a.name == "slots"}
    assert slots == {(1, 4, -1, 16)}
    assert models.serial(packed.unpack(out)) == models.serial(models.chain(dense, zeros))
    # where short codes are what the file consists of, they stay
    holes = np.where(rng.random((1200, 300)) < 0.7, 0, dense).astype(np.int8)
    alone = packed.pack(models.chain(holes, dense[:400]), "portable")
    assert [node.op_type for node in alone.graph.node[4:6]] == ["Sparse", "Huffman"]
