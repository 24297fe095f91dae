"""After folding, onnxruntime fuses and picks kernels as for the plain model."""

import numpy as np
import onnx
import onnxruntime
import portable_models as models
import pytest
from onnx import TensorProto, helper, numpy_helper

from mlflow_compress import packed


def tensors(**arrays):
    return [numpy_helper.from_array(np.asarray(array), name) for name, array in arrays.items()]


def model(nodes, x, y, initializers):
    info = [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in (("x", x), ("y", y))]
    graph = helper.make_graph(nodes, "g", [info[0]], [info[1]], initializers)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def node(op, inputs, output, **attributes):
    return helper.make_node(op, inputs.split(), [output], **attributes)


def quantised_conv():
    """Convolution and matrix product between QuantizeLinear and DequantizeLinear."""
    scales = np.random.default_rng(0).random(32).astype(np.float32) * 0.01
    held = tensors(
        w=models.dense((32, 16, 3, 3)),
        sw=scales,
        zw=np.zeros(32, np.int8),
        v=models.dense((2048, 64), seed=1),
        sv=np.float32(0.01),
        zv=np.int8(0),
        sx=np.float32(0.05),
        sy=np.float32(1),
        z=np.uint8(128),
        flat=np.array([0, -1]),
    )
    nodes = [
        node("QuantizeLinear", "x sx z", "xq"),
        node("DequantizeLinear", "xq sx z", "xd"),
        node("DequantizeLinear", "w sw zw", "wd", axis=0),
        node("Conv", "xd wd", "c", pads=[1, 1, 1, 1]),
        node("QuantizeLinear", "c sy z", "cq"),
        node("DequantizeLinear", "cq sy z", "cd"),
        node("Reshape", "cd flat", "f"),
        node("DequantizeLinear", "v sv zv", "vd"),
        node("MatMul", "f vd", "m"),
        node("QuantizeLinear", "m sy z", "mq"),
        node("DequantizeLinear", "mq sy z", "y"),
    ]
    return model(nodes, ["N", 16, 8, 8], ["N", 64], held)


def dynamic():
    held = tensors(w=models.dense((256, 300)), ws=np.float32(0.02), wz=np.int8(0))
    nodes = [
        helper.make_node("DynamicQuantizeLinear", ["x"], ["q", "s", "z"]),
        node("MatMulInteger", "q w z wz", "i"),
        node("Cast", "i", "c", to=TensorProto.FLOAT),
        node("Mul", "s ws", "ss"),
        node("Mul", "c ss", "y"),
    ]
    return model(nodes, ["N", 256], ["N", 300], held)


def convolutions():
    """What is fused or folded with weights: batch norm, Relu, Transpose."""
    rng = np.random.default_rng(0)
    held = tensors(
        w=models.sparse((32, 16, 3, 3), 0.2),
        v=models.sparse((32, 32, 3, 3), 0.2, seed=1),
        u=models.sparse((64, 2048)),
        **{name: rng.random(32).astype(np.float32) + 0.5 for name in "abcd"},
    )
    nodes = [
        node("Conv", "x w", "c0", pads=[1, 1, 1, 1]),
        node("BatchNormalization", "c0 a b c d", "n"),
        node("Relu", "n", "r"),
        node("Conv", "r v", "k", pads=[1, 1, 1, 1]),
        node("Flatten", "k", "f"),
        node("Transpose", "u", "ut", perm=[1, 0]),
        node("MatMul", "f ut", "y"),
    ]
    return model(nodes, ["N", 16, 8, 8], ["N", 64], held)


@pytest.mark.parametrize("make", [quantised_conv, dynamic, convolutions])
def test_the_same_kernels_run(make, tmp_path):
    plain = make()
    out = packed.pack(plain, "portable")
    assert models.kinds(out)
    shape = [d.dim_value or 2 for d in plain.graph.input[0].type.tensor_type.shape.dim]
    x = np.random.default_rng(3).normal(size=shape).astype(np.float32)
    got = []
    for which in (plain, out):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.log_severity_level = 1, 3
        options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
        session = onnxruntime.InferenceSession(models.serial(which), options)
        kernels = [n.op_type for n in onnx.load(tmp_path / "optimised.onnx").graph.node]
        got.append((session.run(None, {"x": x})[0], kernels))
    assert got[0][1] == got[1][1]
    assert np.array_equal(got[0][0], got[1][0])
    assert models.serial(packed.unpack(out)) == models.serial(plain)


def test_weights_that_are_graph_inputs_or_have_value_info():
    plain = models.chain(models.sparse((200, 300)), models.sparse((300, 200), seed=1))
    for name, shape in (("w0", [200, 300]), ("w1", [300, 200])):  # as exporters list all
        plain.graph.input.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))
    plain.graph.value_info.append(
        helper.make_tensor_value_info("w1", TensorProto.FLOAT, [300, 200])
    )
    out = packed.pack(plain, "portable")
    assert len(models.kinds(out)) == 2
    assert [info.name for info in out.graph.input] == ["x"]
    onnx.checker.check_model(out, full_check=True)
    assert models.serial(packed.unpack(out)) == models.serial(plain)
