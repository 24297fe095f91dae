"""What the interpreter computes is what onnxruntime computes; what was trained comes back."""

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F
from onnx import helper
from torch import nn

from mlflow_compress.errors import TechniqueError
from mlflow_compress.techniques import normalize
from mlflow_compress.techniques.graph.running import session
from mlflow_compress.techniques.training.export import export_torch
from mlflow_compress.techniques.training.interpreter import (
    AnyBatchNorm,
    Interpreter,
    check_interpreter,
)


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1, groups=4)
        self.out = nn.Linear(8, 5)

    def forward(self, x):
        y = F.relu(self.a(x))
        y = y + F.hardswish(self.b(y))
        return self.out(F.adaptive_avg_pool2d(y, 1).flatten(1))


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(16), nn.LayerNorm(16)
        self.qkv, self.proj = nn.Linear(16, 48), nn.Linear(16, 16)
        self.up, self.down = nn.Linear(16, 32), nn.Linear(32, 16)

    def forward(self, x):
        q, k, v = self.qkv(self.norm1(x)).reshape(x.shape[0], 6, 3, 4, 4).permute(2, 0, 3, 1, 4)
        weights = torch.softmax(q @ k.transpose(-1, -2) / 2, -1)
        x = x + self.proj((weights @ v).transpose(1, 2).reshape(x.shape))
        return x + self.down(F.gelu(self.up(self.norm2(x))))


MODULES = {
    "mlp": (lambda: nn.Sequential(nn.Linear(12, 9), nn.ReLU(), nn.Linear(9, 4)), (12,)),
    "lenet": (
        lambda: nn.Sequential(
            nn.Conv2d(1, 6, 5), nn.MaxPool2d(2), nn.Conv2d(6, 8, 5), nn.MaxPool2d(2),
            nn.Flatten(), nn.Linear(128, 20), nn.ReLU(), nn.Linear(20, 10),
        ),
        (1, 28, 28),
    ),
    "residual": (Residual, (3, 8, 8)),
    "transformer": (Block, (6, 16)),
}  # fmt: skip


@pytest.fixture(params=MODULES)
def exported(request, rng):
    torch.manual_seed(0)
    make, shape = MODULES[request.param]
    rows = rng.normal(size=(4, *shape)).astype(np.float32)
    return normalize(export_torch(make(), rows)), {"input": rows}


def test_an_exported_module_is_interpreted_and_comes_back_bit_for_bit(exported):
    model, inputs = exported
    module = Interpreter(model)
    check_interpreter(module, model, inputs)
    assert module.write_back() == model


def test_every_weight_gets_a_gradient_and_comes_back_trained(exported):
    model, inputs = exported
    module = Interpreter(model)
    optimizer = torch.optim.SGD(module.parameters(), lr=0.05)
    module(torch.from_numpy(inputs["input"]))[0].square().sum().backward()
    assert all(value.grad is not None for value in module.trained().values())
    optimizer.step()
    trained = module.write_back()
    check_interpreter(module, trained, inputs)
    assert {t.name for t in trained.graph.initializer} == {t.name for t in model.graph.initializer}
    before, after = (session(m).run(None, inputs)[0] for m in (model, trained))
    assert np.abs(before - after).max() > 1e-4


@pytest.fixture
def normalised_net(build, rng):
    """Conv, BatchNorm and a residual Add, with padding by name; Gemm stored both ways."""
    f32 = np.float32
    arrays = {
        "w": rng.normal(0, 0.3, (4, 2, 3, 3)).astype(f32),
        "scale": rng.uniform(0.5, 2, 4).astype(f32),
        "shift": rng.normal(size=4).astype(f32),
        "mean": rng.normal(size=4).astype(f32),
        "var": rng.uniform(0.5, 2, 4).astype(f32),
        "add": rng.normal(size=(4, 1, 1)).astype(f32),
        "g": rng.normal(size=(4, 3)).astype(f32),
        "gb": rng.normal(size=(1, 3)).astype(f32),
    }
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a"], auto_pad="SAME_UPPER", strides=[2, 2]),
        helper.make_node("BatchNormalization", ["a", "scale", "shift", "mean", "var"], ["b"]),
        helper.make_node("Add", ["b", "add"], ["c"]),
        helper.make_node("Add", ["c", "a"], ["d"]),
        helper.make_node("GlobalAveragePool", ["d"], ["e"]),
        helper.make_node("Flatten", ["e"], ["f"]),
        helper.make_node("Gemm", ["f", "g", "gb"], ["y"]),
    ]
    return build(nodes, arrays, [("x", ["n", 2, 7, 7])], [("y", ["n", 3])])


def test_batch_norm_is_a_layer_whose_statistics_are_trained_and_written_back(normalised_net, rng):
    inputs = {"x": rng.normal(2, 3, (64, 2, 7, 7)).astype(np.float32)}
    module = Interpreter(normalised_net)
    check_interpreter(module, normalised_net, inputs)
    assert module.write_back() == normalised_net
    assert any(isinstance(layer, AnyBatchNorm) for layer in module.modules())
    module.train()
    module(torch.from_numpy(inputs["x"]))
    trained = module.write_back()
    changed = {
        old.name
        for old, new in zip(
            normalised_net.graph.initializer, trained.graph.initializer, strict=True
        )
        if old != new
    }
    assert changed == {"mean", "var"}
    check_interpreter(module, trained, inputs)


def test_weights_in_their_own_layout(normalised_net):
    module = Interpreter(normalised_net)
    held = {t.name: onnx.numpy_helper.to_array(t) for t in normalised_net.graph.initializer}
    for name in ("w", "g", "gb", "add"):
        assert np.array_equal(module.stored(name), held[name])
    assert isinstance(module.layer_of("g"), nn.Linear)
    assert module.layer_of("add") is None


def test_a_weight_used_twice_is_one_parameter(build, rng):
    w = rng.normal(size=(5, 5)).astype(np.float32)
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["a"]),
        helper.make_node("Tanh", ["a"], ["b"]),
        helper.make_node("MatMul", ["b", "w"], ["y"]),
    ]
    model = build(nodes, {"w": w}, [("x", ["n", 5])], [("y", ["n", 5])])
    module = Interpreter(model)
    assert len(list(module.parameters())) == 1
    check_interpreter(module, model, {"x": rng.normal(size=(3, 5)).astype(np.float32)})


def unary(*op_types):
    return [(op, ["x"], {}, {}, 20) for op in op_types]


X = np.linspace(-2, 2, 2 * 3 * 4 * 6, dtype=np.float32).reshape(2, 3, 4, 6)
INT = np.array([0, 2], np.int64)
CASES = [
    *unary("Abs", "Ceil", "Cos", "Elu", "Erf", "Exp", "Flatten", "Floor", "Gelu", "GlobalMaxPool",
           "HardSigmoid", "HardSwish", "LeakyRelu", "LogSoftmax", "Neg", "Relu", "Selu", "Sigmoid",
           "Sign", "Sin", "Softmax", "Softplus", "Softsign", "Tanh", "Transpose", "ReduceMean",
           "Identity", "Reciprocal"),
    *[(op, ["x", "b"], {"b": X[:1, :, :1] + 3}, {}, 20)
      for op in ("Add", "Sub", "Mul", "Div", "Max", "Min", "Sum", "Mean", "PRelu")],
    ("Softmax", ["x"], {}, {}, 11),
    ("Clip", ["x"], {}, {"min": -0.5, "max": 0.7}, 6),
    ("Clip", ["x", "", "b"], {"b": np.float32(0.5)}, {}, 20),
    ("Pow", ["x", "b"], {"b": np.float32(2)}, {}, 20),
    ("ReduceSum", ["x", "b"], {"b": INT}, {"keepdims": 0}, 20),
    ("ReduceMax", ["x"], {}, {"axes": [1]}, 13),
    ("ReduceL1", ["x", "b"], {"b": INT}, {}, 20),
    ("ReduceL2", ["x", "b"], {"b": INT}, {}, 20),
    ("ReduceSumSquare", ["x", "b"], {"b": INT}, {}, 20),
    ("ReduceMin", ["x", "b"], {"b": INT}, {}, 20),
    ("ReduceProd", ["x", "b"], {"b": INT}, {"keepdims": 0}, 20),
    ("Reshape", ["x", "b"], {"b": np.array([0, -1, 6])}, {}, 20),
    ("Squeeze", ["x", "b"], {"b": np.array([], np.int64)}, {}, 20),
    ("Unsqueeze", ["x", "b"], {"b": np.array([0, -1])}, {}, 20),
    ("Unsqueeze", ["x"], {}, {"axes": [0, 3]}, 11),
    ("Concat", ["x", "b"], {"b": X[:, :1]}, {"axis": 1}, 20),
    ("Slice", ["x", "s", "e", "a", "t"],
     {"s": np.array([1, -1]), "e": np.array([9, -99]), "a": np.array([3, 2]),
      "t": np.array([2, -1])}, {}, 20),
    ("Slice", ["x"], {}, {"starts": [0, 1], "ends": [1, 3]}, 9),
    ("Gather", ["x", "b"], {"b": np.array([[0, -1], [1, 1]])}, {"axis": 2}, 20),
    ("GatherElements", ["x", "b"], {"b": np.zeros((2, 3, 4, 2), np.int64) - 1}, {"axis": 3}, 20),
    ("Expand", ["x", "b"], {"b": np.array([2, 2, 1, 1, 1])}, {}, 20),
    ("Tile", ["x", "b"], {"b": np.array([1, 2, 1, 3])}, {}, 20),
    ("Pad", ["x", "b"], {"b": np.array([0, 0, 1, 2, 0, 0, 0, 1])}, {}, 20),
    ("Pad", ["x", "b"], {"b": np.array([0, 0, 1, 2, 0, 0, 0, 1])}, {"mode": "reflect"}, 20),
    ("Pad", ["x"], {}, {"pads": [0, 1, 0, 0, 0, 0, 0, 1], "value": 2.0}, 10),
    ("MaxPool", ["x"], {}, {"kernel_shape": [3, 2], "strides": [2, 2], "pads": [1, 0, 1, 1]}, 20),
    ("MaxPool", ["x"], {}, {"kernel_shape": [3, 3], "auto_pad": "SAME_LOWER"}, 20),
    ("AveragePool", ["x"], {}, {"kernel_shape": [2, 2], "pads": [1, 1, 1, 1]}, 20),
    ("AveragePool", ["x"], {}, {"kernel_shape": [2, 3], "pads": [0, 0, 1, 2],
                                "count_include_pad": 1}, 20),
    ("Conv", ["x", "w"], {"w": X[:, :, :2, :3]}, {"dilations": [2, 1], "pads": [1, 0, 0, 2]}, 20),
    ("ConvTranspose", ["x", "w"], {"w": X[:1, :, :2, :3].transpose(1, 0, 2, 3)},
     {"strides": [2, 1], "pads": [1, 0, 1, 0], "output_padding": [1, 0]}, 20),
    ("InstanceNormalization", ["x", "s", "b"],
     {"s": X[0, 0, 0, :3], "b": X[0, 1, 0, :3]}, {}, 20),
    ("LayerNormalization", ["x", "s", "b"], {"s": X[0, 0, 0], "b": X[0, 1, 0]}, {}, 20),
    ("Resize", ["x", "", "s"], {"s": np.array([1, 1, 2, 3], np.float32)},
     {"mode": "nearest", "coordinate_transformation_mode": "asymmetric",
      "nearest_mode": "floor"}, 20),
    ("Resize", ["x", "", "", "s"], {"s": np.array([2, 3, 7, 9])}, {"mode": "linear"}, 20),
    ("Gemm", ["m", "w", "b"], {"m": X[0, 0], "w": X[0, 1], "b": X[0, 2, :, :4]},
     {"transB": 1, "alpha": 0.5, "beta": 2.0}, 20),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case[0]}-{case[4]}")
def test_an_operator_computes_what_onnxruntime_computes(case):
    op_type, names, arrays, attributes, version = case
    x = X if op_type != "Reciprocal" else X + 5
    nodes = [helper.make_node(op_type, names, ["y"], **attributes)]
    graph = helper.make_graph(
        nodes, "g",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, X.shape)],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, None)],
        [onnx.numpy_helper.from_array(np.asarray(array), name) for name, array in arrays.items()],
    )  # fmt: skip
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", version)], ir_version=10
    )
    check_interpreter(Interpreter(model), model, {"x": x})


def test_logic_on_shapes(build):
    """Shape arithmetic, comparisons, ranges, splits: what exporters write around the layers."""
    nodes = [
        helper.make_node("Shape", ["x"], ["shape"]),
        helper.make_node("Gather", ["shape", "one"], ["width"]),
        helper.make_node("Range", ["zero", "width", "step"], ["range"]),
        helper.make_node("Cast", ["range"], ["place"], to=onnx.TensorProto.FLOAT),
        helper.make_node("Greater", ["place", "two"], ["late"]),
        helper.make_node("Where", ["late", "x", "place"], ["chosen"]),
        helper.make_node("ArgMax", ["x"], ["top"], axis=1),
        helper.make_node("Equal", ["range", "top"], ["hit"]),
        helper.make_node("Not", ["hit"], ["miss"]),
        helper.make_node("And", ["miss", "late"], ["both"]),
        helper.make_node("Or", ["both", "hit"], ["some"]),
        helper.make_node("Cast", ["some"], ["kept"], to=onnx.TensorProto.FLOAT),
        helper.make_node("Reshape", ["width", "axes"], ["long"]),
        helper.make_node("ConstantOfShape", ["long"], ["zeros"]),
        helper.make_node("Mul", ["chosen", "kept"], ["product"]),
        helper.make_node("Add", ["product", "zeros"], ["sum"]),
        helper.make_node("Split", ["sum"], ["y", "z"], axis=1, num_outputs=2),
    ]
    arrays = {
        "one": np.int64(1), "zero": np.int64(0), "step": np.int64(1), "two": np.float32(2),
        "axes": np.array([1]),
    }  # fmt: skip
    model = build(nodes, arrays, [("x", ["n", 5])], [("y", ["n", 3]), ("z", ["n", 2])])
    check_interpreter(Interpreter(model), model, {"x": X.reshape(-1, 72)[:, :5].copy()})


@pytest.mark.parametrize(
    ("node", "reason"),
    [
        (helper.make_node("LSTM", ["x", "w", "w"], ["y"], name="cell"),
         "LSTM 'cell': training does not know this operator"),
        (helper.make_node("FusedConv", ["x"], ["y"], domain="com.microsoft"),
         "FusedConv 'y': training does not know this operator of domain 'com.microsoft'"),
        (helper.make_node("BatchNormalization", ["x", "w", "w", "w", "w"], ["y"], training_mode=1),
         "BatchNormalization 'y': is in training mode"),
    ],
)  # fmt: skip
def test_what_is_not_known_is_refused_by_name(node, reason):
    graph = helper.make_graph(
        [node], "g", [helper.make_tensor_value_info("x", 1, ["n", 3])],
        [helper.make_tensor_value_info("y", 1, None)],
        [onnx.numpy_helper.from_array(np.ones(3, np.float32), "w")],
    )  # fmt: skip
    with pytest.raises(TechniqueError, match=f"^{reason}$"):
        Interpreter(helper.make_model(graph))


def test_a_module_that_computes_something_else_is_refused(build, rng):
    w = rng.normal(size=(3, 3)).astype(np.float32)
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"])]
    model = build(nodes, {"w": w}, [("x", ["n", 3])], [("y", ["n", 3])])
    other = build(nodes, {"w": w + 1}, [("x", ["n", 3])], [("y", ["n", 3])])
    rows = {"x": rng.normal(size=(2, 3)).astype(np.float32)}
    with pytest.raises(TechniqueError, match="output 'y' differs from onnxruntime's by"):
        check_interpreter(Interpreter(other), model, rows)
