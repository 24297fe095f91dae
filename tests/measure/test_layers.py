from dataclasses import dataclass

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from mlflow_compress.measure import layer_reports, stage_reports, weight_bytes
from mlflow_compress.measure.layers import natural_bytes


@dataclass
class Info:
    name: str
    shape: tuple
    dtype: str
    encoding: str
    bytes_before: int
    bytes_after: int
    entropy: float
    bits_spent: float
    sparsity: float
    distinct: int


@dataclass
class Packed:
    file_bytes: int
    tensors: tuple


def test_the_bytes_of_all_derived_tensors_are_summed(make_linear):
    source = make_linear(np.ones((4, 8)))
    variant = make_linear(np.ones((4, 8)))
    del variant.graph.initializer[:]
    values = np.arange(32, dtype=np.int8).reshape(4, 8)
    variant.graph.initializer.extend(
        [
            numpy_helper.from_array(np.ones(8, np.float32), "w_scale"),
            numpy_helper.from_array(values, "w_quantized"),
            numpy_helper.from_array(np.float32(2), "x_scale"),
        ]
    )
    packed = Packed(
        120,
        (
            Info("w_scale", (8,), "float32", "raw", 32, 30, 0.0, 30.0, 0.0, 1),
            Info("w_quantized", (4, 8), "int8", "huffman", 32, 20, 5.0, 5.0, 1 / 32, 32),
            Info("x_scale", (), "float32", "raw", 4, 4, 0.0, 32.0, 0.0, 1),
        ),
    )
    (report,) = layer_reports(source, variant, packed, {"w_scale": "w", "w_quantized": "w"})
    assert (report.name, report.dtype, report.encoding) == ("w", "int8", "huffman")
    assert (report.source_bytes, report.packed_bytes) == (128, 50)
    assert report.bits_spent == 8 * 50 / 32
    assert report.redundancy == pytest.approx(12.5 - 5.0)
    assert report.rate == pytest.approx(128 / 50)


def test_stages_tell_how_the_size_falls(make_linear, rng):
    weight = rng.normal(size=(20, 50))
    pruned = np.where(np.abs(weight) > 1.5, weight, 0)
    shared = np.sign(pruned)
    models = [make_linear(array) for array in (weight, pruned, shared)]
    stages = tuple(zip(("source", "prune", "share"), models, strict=True))
    reports = stage_reports(models[0], stages, Packed(100, ()))
    assert [r.name for r in reports] == ["source", "pruned", "+ shared", "+ Huffman"]
    assert reports[0].bytes == 4000
    kept = int((pruned != 0).sum())
    assert reports[1].bytes == kept * 5
    assert reports[1].sparsity == pytest.approx(1 - kept / 1000)
    assert reports[2].bytes < reports[1].bytes
    assert reports[3].bytes == 100
    assert reports[3].rate == 40
    assert reports[0].entropy > reports[1].entropy > reports[2].entropy


@pytest.mark.parametrize(
    ("values", "size"),
    [
        (np.arange(100, dtype=np.float32), 400),
        (np.arange(100, dtype=np.float32) % 4, 100 * 2 // 8 + 16),
        (np.where(np.arange(100) == 7, np.float32(2), np.float32(0)), 5),
        (np.arange(100, dtype=np.int64) % 2, 800),
    ],
    ids=["dense", "codebook", "sparse", "no weight"],
)
def test_natural_bytes(values, size):
    assert natural_bytes(numpy_helper.from_array(values, "w")) == size


def test_weight_bytes_counts_weights_wherever_they_are(make_linear):
    model = make_linear(np.ones((4, 8)))
    inner = helper.make_graph(
        [helper.make_node("Identity", ["v"], ["o"])],
        "b",
        [],
        [helper.make_tensor_value_info("o", TensorProto.FLOAT, [3])],
        [numpy_helper.from_array(np.ones(3, np.float32), "v")],
    )
    value = numpy_helper.from_array(np.ones(5, np.float16), "c")
    model.graph.node.append(helper.make_node("Constant", [], ["c"], value=value))
    model.graph.node.append(
        helper.make_node("If", ["t"], ["z"], then_branch=inner, else_branch=inner)
    )
    packed4 = helper.make_tensor("q", TensorProto.UINT4, [3], [1, 2, 3])
    model.graph.initializer.append(packed4)
    assert weight_bytes(model) == 128 + 10 + 2 * 12 + 2
