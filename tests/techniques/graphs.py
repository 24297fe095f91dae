"""Small graphs written node by node, and rows for them."""

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from mlflow_compress.records import Recipe, Step
from mlflow_compress.techniques import Context, apply_recipe, normalize

__all__ = [
    "RNG",
    "ROWS",
    "applied",
    "attention",
    "both_ways",
    "choosing",
    "graph_of",
    "model_of",
    "node",
    "typed",
    "weights",
]

RNG = np.random.default_rng(3)
ROWS = RNG.normal(size=(96, 16)).astype(np.float32)


def node(kind, reads, makes, **attributes):
    return helper.make_node(kind, reads.split(), makes.split(), **attributes)


def weights(*shape):
    return (RNG.normal(size=shape) / np.sqrt(shape[-1])).astype(np.float32)


def graph_of(nodes, held, output="y", inputs=(("x", ["n", 16]),), name="g", rank=2):
    return helper.make_graph(
        nodes,
        name,
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in inputs],
        [helper.make_tensor_value_info(output, TensorProto.FLOAT, [None] * rank)],
        [numpy_helper.from_array(array, key) for key, array in held.items()],
    )


def model_of(nodes, held, *, functions=(), domains=(), **options):
    opsets = [helper.make_opsetid("", 17), *(helper.make_opsetid(d, 1) for d in domains)]
    graph = graph_of(nodes, held, **options)
    model = helper.make_model(graph, opset_imports=opsets, functions=functions, ir_version=9)
    onnx.checker.check_model(model)
    return model


def choosing(reads):
    """Nodes of which the last multiplies a value by one of two weights, each in a branch."""

    def branch(name):
        return graph_of([node("MatMul", f"{reads} {name}", "o")], {}, "o", (), name)

    return [
        node("ReduceMean", "x", "m", keepdims=0),
        node("Greater", "m zero", "c"),
        node("If", "c", "y", then_branch=branch("s"), else_branch=branch("t")),
    ]


def applied(model, *steps, **settings):
    recipe = Recipe(tuple(Step(name, settings) for name in steps), "compact")
    return apply_recipe(normalize(model), recipe, Context(calibration={"x": ROWS}))


def typed(model, kind):
    """The model with all its floats of another type."""
    made = onnx.ModelProto.FromString(model.SerializeToString())
    for tensor in made.graph.initializer:
        array = numpy_helper.to_array(tensor)
        dtype = helper.tensor_dtype_to_np_dtype(kind)
        if array.dtype == np.float32:
            tensor.CopyFrom(numpy_helper.from_array(array.astype(dtype), tensor.name))
    for value in (*made.graph.input, *made.graph.output):
        value.type.tensor_type.elem_type = kind
    return made


def attention(hidden):
    nodes = [
        node("Reshape", "x shape", "s"),
        *(node("MatMul", f"s w{k}", k) for k in "qkv"),
        node("Transpose", "k", "kt", perm=[0, 2, 1]),
        node("MatMul", "q kt", "qk"),
        node("Add", "qk mask", "masked"),
        node("Softmax", "masked", "p"),
        node("MatMul", "p v", "y"),
    ]
    mask = np.triu(np.full((4, 4), hidden, np.float32), 1)
    held = {"shape": np.array([-1, 4, 4]), "mask": mask}
    return model_of(nodes, held | {f"w{k}": 2 * weights(4, 4) for k in "qkv"}, rank=3)


def both_ways():
    nodes = [
        node("Gemm", "x w", "h"),
        node("Relu", "h", "r"),
        node("Gemm", "r w", "y", transB=1),
    ]
    return model_of(nodes, {"w": weights(16, 16) * np.linspace(0.1, 3, 16, dtype=np.float32)})
