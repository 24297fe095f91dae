"""Every data type, and every place in a model where a weight can stand."""

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from mlflow_compress import packed
from mlflow_compress.errors import PackedFormatError, SourceError
from mlflow_compress.packed import runtime
from mlflow_compress.packed.format import bits_of
from mlflow_compress.packed.onnx import files
from tests.packed import packed_models as models


def serial(model):
    return model.SerializeToString(deterministic=True)


def round_trip(model, valid=True):
    """Pack, check, and rebuild in all three ways; return the packed model."""
    before = serial(model)
    out = packed.pack(model)
    assert serial(model) == before
    if valid:
        models.check(out)
    for source in (out, packed.to_bytes(out)):
        assert serial(packed.unpack(source)) == before
    packed.verify(out)
    return out


DTYPES = [d for d in TensorProto.DataType.values() if bits_of(d)]


@pytest.mark.parametrize("dtype", DTYPES, ids=TensorProto.DataType.Name)
@pytest.mark.parametrize("shape", [(), (0,), (1,), (3, 0, 2), (7,), (61, 80)])
def test_every_dtype_round_trips(dtype, shape):
    rng = np.random.default_rng(dtype)
    size = (int(np.prod(shape)) * bits_of(dtype) + 7) // 8
    data = np.minimum(rng.geometric(0.2, size), 200).astype(np.uint8)
    if dtype == TensorProto.BOOL:
        data &= 1
    tensor = TensorProto(name="w0", data_type=dtype, dims=shape, raw_data=data.tobytes())
    out = round_trip(models.of_weights([tensor], opset=26, ir_version=13))
    assert len(packed.to_bytes(out)) < size + 400
    if size > 1000:
        assert packed.inspect(out).tensors[0].encoding != "raw"


@pytest.mark.parametrize("dtype", DTYPES, ids=TensorProto.DataType.Name)
def test_typed_fields_round_trip(dtype):
    values = np.random.default_rng(dtype).integers(0, 2, (50, 40))
    tensor = helper.make_tensor("w0", dtype, values.shape, values.astype(np.float32), raw=False)
    assert not tensor.HasField("raw_data")
    out = round_trip(models.of_weights([tensor], opset=26, ir_version=13))
    assert packed.inspect(out).tensors[0].encoding != "raw"


def test_strings_stay_as_they_are():
    words = helper.make_tensor("w0", TensorProto.STRING, [2], [b"a" * 200, b"b" * 200])
    out = round_trip(models.of_weights([words]))
    assert packed.inspect(out).tensors[0].encoding == "raw"


def test_what_surrounds_a_tensor_comes_back():
    tensor = numpy_helper.from_array(np.zeros((50, 50), np.float32), "w0")
    tensor.doc_string = "what it is"
    tensor.metadata_props.add(key="k", value="v")
    model = models.of_weights([tensor, np.arange(900, dtype=np.float32)])
    model.doc_string, model.producer_name, model.graph.doc_string = "m", "p", "g"
    model.metadata_props.add(key="source", value="here")
    model.graph.value_info.append(helper.make_tensor_value_info("w1", TensorProto.FLOAT, [900]))
    round_trip(model)


def test_old_models_with_all_weights_among_the_inputs():
    model = models.mlp(dims=(40, 30, 10))
    for tensor in model.graph.initializer:
        model.graph.input.append(
            helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
        )
    model.ir_version = 3
    model.opset_import[0].version = 9
    out = round_trip(model)
    assert [info.name for info in out.graph.input] != [info.name for info in model.graph.input]
    x = np.ones((2, 40), np.float32)
    expected = onnxruntime.InferenceSession(serial(model)).run(None, {"x": x})[0]
    session = packed.load(packed.to_bytes(out))
    assert np.array_equal(session.run(None, {"x": x})[0], expected)


def branching(weights=True):
    """An If whose branches each have an initializer and a Constant of the same names."""
    rng = np.random.default_rng(5)

    def branch(number):
        kernel = np.round(rng.standard_normal((30, 30)) * 8).astype(np.float32)
        shift = np.round(rng.standard_normal((50, 30))).astype(np.float32)
        nodes = [
            helper.make_node("Constant", [], ["shift"], value=numpy_helper.from_array(shift)),
            helper.make_node("MatMul", ["shift", "kernel"], ["mixed"]),
            helper.make_node("MatMul", ["x", "kernel"], [f"here{number}"]),
            helper.make_node("ReduceSum", ["mixed"], ["sum"], keepdims=0),
            helper.make_node("Add", [f"here{number}", "sum"], [f"out{number}"]),
        ]
        result = helper.make_tensor_value_info(f"out{number}", TensorProto.FLOAT, ["N", 30])
        kernels = [numpy_helper.from_array(kernel, "kernel")]
        return helper.make_graph(nodes, f"branch{number}", [], [result], kernels)

    outer = np.round(rng.standard_normal((30, 30)) * 4).astype(np.float32)
    nodes = [
        helper.make_node("Constant", [], ["first"], value=numpy_helper.from_array(outer, "t")),
        helper.make_node("Identity", ["shared"], ["behind"]),
        helper.make_node(
            "If", ["flag"], ["chosen"], name="if", then_branch=branch(1), else_branch=branch(2)
        ),
        helper.make_node("MatMul", ["chosen", "behind"], ["a"]),
        helper.make_node("MatMul", ["a", "shared"], ["b"]),
        helper.make_node("MatMul", ["b", "first"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "branching",
        [
            helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 30]),
            helper.make_tensor_value_info("flag", TensorProto.BOOL, []),
        ],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 30])],
        [numpy_helper.from_array(outer.T.copy(), "shared")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def test_subgraphs_constants_identity_and_shared_weights():
    model = branching()
    out = round_trip(model)
    info = packed.inspect(out)
    assert len(info.tensors) == 6
    assert all(tensor.encoding != "raw" for tensor in info.tensors)
    plain = onnxruntime.InferenceSession(serial(model))
    session = packed.load(packed.to_bytes(out))
    x = np.random.default_rng(0).standard_normal((4, 30)).astype(np.float32)
    for flag in (True, False):
        feeds = {"x": x, "flag": np.array(flag)}
        assert np.array_equal(session.run(None, feeds)[0], plain.run(None, feeds)[0])


def test_a_weight_that_is_an_output():
    weight = numpy_helper.from_array(np.zeros((40, 40), np.float32), "w0")
    graph = helper.make_graph(
        [], "g", [], [helper.make_tensor_value_info("w0", TensorProto.FLOAT, [40, 40])], [weight]
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    round_trip(model)


def test_names_that_collide_with_the_blob():
    array = np.zeros((50, 50), np.float32)
    model = models.of_weights([numpy_helper.from_array(array, "packed")])
    out = round_trip(model)
    assert out.graph.initializer[-1].name == "packed_1"


def test_a_model_without_weights_round_trips():
    round_trip(models.of_weights([]))


def test_a_plain_model_is_no_packed_one():
    with pytest.raises(PackedFormatError, match="not a packed model"):
        packed.unpack(models.mlp(dims=(20, 10)))


def test_external_data_must_be_loaded(tmp_path):
    model = models.mlp(dims=(40, 30))
    onnx.save_model(model, tmp_path / "m.onnx", save_as_external_data=True, size_threshold=10)
    unloaded = onnx.load(tmp_path / "m.onnx", load_external_data=False)
    with pytest.raises(SourceError, match="its external data are not loaded"):
        packed.pack(unloaded)
    round_trip(onnx.load(tmp_path / "m.onnx"))


def test_two_files_above_the_limit(tmp_path):
    model = models.mlp()
    out = packed.pack(model)
    packed.save(out, tmp_path / "big.onnx", largest=1000)
    assert (tmp_path / "big.onnx.data").stat().st_size > 20000
    assert (tmp_path / "big.onnx").stat().st_size < 2000
    onnx.checker.check_model(tmp_path / "big.onnx", full_check=True)
    assert serial(packed.unpack(tmp_path / "big.onnx")) == serial(model)
    assert serial(packed.unpack(onnx.load(tmp_path / "big.onnx"))) == serial(model)
    packed.load(tmp_path / "big.onnx")
    assert packed.inspect(tmp_path / "big.onnx").overhead_bytes < 1100
    (tmp_path / "big.onnx.data").write_bytes(b"short")
    with pytest.raises(PackedFormatError, match="not as long as the model says"):
        packed.verify(tmp_path / "big.onnx")
    with pytest.raises(PackedFormatError, match="must stand beside"):
        packed.verify((tmp_path / "big.onnx").read_bytes())


def test_saving_replaces_a_file_or_leaves_it(tmp_path, monkeypatch):
    path = tmp_path / "m.onnx"
    packed.save(models.mlp(dims=(9, 9)), path)
    before = path.read_bytes()

    def fail(_):
        raise OSError("disk full")

    monkeypatch.setattr(files.os, "fsync", fail)
    with pytest.raises(OSError, match="disk full"):
        packed.save(models.mlp(dims=(99, 9)), path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["m.onnx"]


def test_loading_goes_to_disk_when_memory_for_files_is_short(monkeypatch):
    real, tried = runtime.os.posix_fallocate, []

    def short(handle, start, size):
        tried.append(size)
        if len(tried) == 1:
            raise OSError(runtime.errno.ENOSPC, "no space")
        real(handle, start, size)

    monkeypatch.setattr(runtime.os, "posix_fallocate", short)
    packed.load(packed.to_bytes(packed.pack(models.mlp())))
    assert len(tried) == 2
