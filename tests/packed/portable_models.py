"""Models whose weights bring out each kind of the portable profile, made from a seed."""

import numpy as np
import onnx
from onnx import helper, numpy_helper


def sparse(shape, share=0.1, centroids=15, seed=0, dtype=np.float32):
    """Mostly zero; the rest from a codebook, or all different with ``centroids`` 0."""
    rng = np.random.default_rng(seed)
    full = rng.normal(size=shape)
    if centroids:
        full = np.sort(rng.normal(size=centroids))[rng.integers(0, centroids, shape)]
    return np.where(rng.random(shape) < share, full, 0).astype(dtype)


def dense(shape, spread=20.0, seed=0, dtype=np.int8):
    """Integers around 0, as quantising gives them."""
    values = np.random.default_rng(seed).laplace(0, spread, shape).round()
    return np.clip(values, -127, 127).astype(dtype)


def indices(shape, values=16, seed=0, dtype=np.float32):
    """Few values, equally often: nothing for Huffman to gain."""
    return np.random.default_rng(seed).integers(0, values, shape).astype(dtype)


def chain(*weights, opset=20, ir_version=10):
    """``x @ w0 @ w1 …`` in float32; each weight is cast first if it is of another type."""
    nodes, value = [], "x"
    for number, weight in enumerate(weights):
        name = f"w{number}"
        if weight.dtype != np.float32:
            nodes.append(helper.make_node("Cast", [name], [f"c{number}"], to=1))
            name = f"c{number}"
        nodes.append(helper.make_node("MatMul", [value, name], [f"y{number}"]))
        value = f"y{number}"
    graph = helper.make_graph(
        nodes,
        "chain",
        [helper.make_tensor_value_info("x", 1, ["N", weights[0].shape[0]])],
        [helper.make_tensor_value_info(value, 1, ["N", weights[-1].shape[1]])],
        [numpy_helper.from_array(weight, f"w{i}") for i, weight in enumerate(weights)],
    )
    opsets = [helper.make_opsetid("", opset)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=ir_version)


KINDS = {
    "Fixed": lambda: [indices((64, 32))],
    "Levels": lambda: [dense((96, 128), 2.0)],
    "SparseLevels": lambda: [sparse((200, 300)), sparse((300, 60), seed=1)],
    "GapsLevels": lambda: [sparse((200, 300), centroids=0)],
    "Huffman": lambda: [dense((400, 300))],
    "Sparse": lambda: [sparse((800, 900), 0.2), sparse((900, 500), 0.2, seed=1)],
    "Gaps": lambda: [sparse((800, 900), 0.2, centroids=0)],
}


def of_kind(kind, **frame):
    """A model that packs to nodes of this kind only."""
    return chain(*KINDS[kind](), **frame)


def kinds(model):
    """Op types of the nodes that decode weights, in order."""
    return [node.op_type for node in weight_nodes(model)]


def weight_nodes(model):
    return [node for node in calls(model) if node.op_type != "Streams"]


def calls(model):
    """All nodes of the packed format."""
    return [node for node in model.graph.node if node.domain == "mlflow_compress"]


def x_for(model, rows=3, seed=5):
    width = model.graph.input[0].type.tensor_type.shape.dim[1].dim_value
    return np.random.default_rng(seed).normal(size=(rows, width)).astype(np.float32)


def serial(model: onnx.ModelProto) -> bytes:
    return model.SerializeToString(deterministic=True)
