"""What a trial is scored by: labels by name, the source's outputs, and NaN."""

import hashlib

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from mlflow_compress import measure
from mlflow_compress.measure import MetricSpec
from mlflow_compress.records import Recipe, Step
from mlflow_compress.search import TrialEvaluator
from mlflow_compress.techniques import normalize
from tests.tiny import CLASSES, tiny_model

SHARED = Recipe((Step("share", {"clusters": 4}),))


def evaluator(tmp_path, model=None, labels=None, rows=64, **settings):
    model = normalize(model or tiny_model())
    x = settings.pop("x", np.random.default_rng(0).normal(size=(rows, 16)).astype(np.float32))
    return TrialEvaluator(
        source=model,
        uri="models:/tiny/1",
        source_digest=hashlib.sha256(model.SerializeToString()).hexdigest(),
        source_bytes=measure.weight_bytes(model),
        evaluation=measure.Dataset({"x": x}, labels),
        outputs=CLASSES,
        work_dir=tmp_path,
        latency_rounds=0,
        **settings,
    )


def test_the_source_s_outputs_are_labels(tmp_path):
    given = evaluator(tmp_path, metric=MetricSpec("mae", labels="source"))
    given.check_source()
    accuracy = given.make(SHARED, "key").variant.report.accuracy
    assert (accuracy.metric, accuracy.source, accuracy.unit) == ("mae", 0, "")
    assert accuracy.drop > 0
    assert accuracy.dataset == given.evaluation.ref, "the rows are those without labels"
    assert evaluator(tmp_path).make(SHARED, "key").variant.report.accuracy is None


def test_the_key_is_what_it_was_unless_more_is_said(tmp_path):
    plain = evaluator(tmp_path, metric="mae")
    assert evaluator(tmp_path, metric=MetricSpec("mae")).key(SHARED) == plain.key(SHARED)
    other = MetricSpec("mae", labels="source")
    assert evaluator(tmp_path, metric=other).key(SHARED) != plain.key(SHARED)


def nan_when_shared() -> onnx.ModelProto:
    """A classifier with a Sqrt, which what sharing makes of the weights turns to NaN."""
    weights = np.zeros((16, 4), np.float32)
    weights[0:4, 0] = [5.0, -4.9, 4.6, -5.3]
    for number in (1, 2, 3):
        weights[4 + number, number] = 10
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"]),
        helper.make_node("Split", ["h", "sizes"], ["first", "rest"], axis=1),
        helper.make_node("Sqrt", ["first"], ["root"]),
        helper.make_node("Mul", ["root", "k"], ["y0"]),
        helper.make_node("Concat", ["y0", "rest"], ["y"], axis=1),
    ]
    constants = {"w": weights, "sizes": np.array([1, 3]), "k": np.array(100, np.float32)}
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 16])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 4])],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


@pytest.mark.parametrize("metric", ["accuracy", "top-2", "f1", "balanced_accuracy"])
def test_a_variant_that_gives_nan_is_wrong_where_it_does(tmp_path, metric):
    labels = np.arange(80) % 4
    x = np.zeros((80, 16), np.float32)
    x[labels == 0, :2] = 1
    for number in (1, 2, 3):
        x[labels == number, 4 + number] = 1
    given = evaluator(tmp_path, nan_when_shared(), labels, x=x, metric=metric)
    accuracy = given.make(SHARED, "key").variant.report.accuracy
    assert accuracy.source == 1
    assert accuracy.drop >= 0.25
