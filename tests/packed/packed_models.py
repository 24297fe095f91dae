"""Small models for the packed room's tests, made from a seed."""

from itertools import pairwise

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


def mlp(density=0.08, centroids=32, dims=(784, 300, 100, 10), seed=0):
    rng = np.random.default_rng(seed)
    nodes, weights, value = [], [], "x"
    for layer, (rows, columns) in enumerate(pairwise(dims)):
        book = np.sort(rng.standard_normal(centroids - 1)).astype(np.float32)
        full = book[rng.integers(0, centroids - 1, (rows, columns))]
        kept = np.where(rng.random((rows, columns)) < density, full, np.float32(0))
        bias = rng.standard_normal(columns).astype(np.float32)
        weights += [
            numpy_helper.from_array(kept, f"fc{layer}.weight"),
            numpy_helper.from_array(bias, f"fc{layer}.bias"),
        ]
        out = f"h{layer}"
        nodes.append(helper.make_node("Gemm", [value, *(w.name for w in weights[-2:])], [out]))
        value = out
        if layer < len(dims) - 2:
            nodes.append(helper.make_node("Relu", [value], [f"{value}r"]))
            value += "r"
    graph = helper.make_graph(
        nodes,
        "mlp",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", dims[0]])],
        [helper.make_tensor_value_info(value, TensorProto.FLOAT, ["N", dims[-1]])],
        weights,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def of_weights(arrays, extra_nodes=(), opset=23, ir_version=11):
    """A valid model that hands each tensor to an Identity node; arrays or TensorProtos."""
    tensors = [
        a if isinstance(a, TensorProto) else numpy_helper.from_array(a, f"w{i}")
        for i, a in enumerate(arrays)
    ]
    nodes = [helper.make_node("Identity", [t.name], [f"{t.name}_out"]) for t in tensors]
    outputs = [
        helper.make_tensor_value_info(f"{t.name}_out", t.data_type, list(t.dims)) for t in tensors
    ]
    graph = helper.make_graph([*nodes, *extra_nodes], "g", [], outputs, tensors)
    return helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=ir_version
    )


def check(model):
    onnx.checker.check_model(model, full_check=True)
    onnx.shape_inference.infer_shapes(model, strict_mode=True)
