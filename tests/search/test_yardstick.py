"""A yardstick that what is worth nothing would pass is refused, and one that tells passes."""

import hashlib

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from mlflow_compress import measure
from mlflow_compress.errors import ConfigError
from mlflow_compress.measure.yardstick import shuffled
from mlflow_compress.search import TrialEvaluator, check_yardstick, look_at_source
from mlflow_compress.targets import Target, load_target
from mlflow_compress.techniques import normalize
from tests.tiny import tiny_model

CONSTANT = "a model that always answers the same passes"
SHUFFLED = "the source with its weights shuffled passes"


def made(nodes, outputs, **weights):
    """Return a model of the input ``x`` of 16 features, its outputs given by name and columns."""
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 16])],
        [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", columns])
            for name, columns in outputs.items()
        ],
        [numpy_helper.from_array(np.asarray(w, np.float32), n) for n, w in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def weights(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


def features(rows=200, seed=1):
    return np.random.default_rng(seed).normal(size=(rows, 16)).astype(np.float32)


def answers(model, x, name="y"):
    return measure.run(measure.open_session(model), measure.Dataset({"x": x}))[name]


@pytest.fixture
def check(tmp_path):
    """Return a function that tests targets as a yardstick of a model on rows."""

    def test(model, x, *targets, labels=None, kinds=None, **settings):
        targets = [
            load_target({"name": f"t{n}", **one}) if one else Target(f"t{n}")
            for n, one in enumerate(targets or [{}])
        ]
        normal = normalize(model)
        rows = measure.check_fits(measure.Dataset({"x": x}, labels), normal)
        evaluator = TrialEvaluator(
            source=normal,
            uri="models:/t/1",
            source_digest=hashlib.sha256(normal.SerializeToString()).hexdigest(),
            source_bytes=measure.weight_bytes(model),
            evaluation=rows,
            outputs=look_at_source(model, normal, rows, kinds, targets),
            work_dir=tmp_path,
            latency_rounds=0,
            **settings,
        )
        evaluator.check_source()
        check_yardstick(evaluator, targets)

    return test


CLASSES = {"y": "classes"}


def test_rows_that_differ_pass(check):
    check(tiny_model(), features(), kinds=CLASSES)
    check(tiny_model(), features())  # as values
    check(tiny_model(), features(), {"accuracy": {"min_agreement": 0.9}})
    x = features()
    labels = answers(tiny_model(), x).argmax(axis=1)
    check(tiny_model(), x, {"accuracy": {"max_drop": 0.05}}, labels=labels)


def test_rows_of_one_class_are_refused_with_the_output_s_name(check):
    x = features(400)
    x = x[answers(tiny_model(), x).argmax(axis=1) == 2]
    with pytest.raises(ConfigError) as refused:
        check(tiny_model(), x, {"accuracy": {"min_agreement": 0.99}})
    text = str(refused.value)
    assert text.startswith(f"output 'y' cannot be judged on these {len(x)} rows: {CONSTANT} (")
    assert "agreement 100.00 % is at least 99.00 %" in text
    assert "--kind y=KIND" in text
    assert "--kind y=ignore" in text


def saturated():
    """A detector of something that is on every row, as far as it can tell."""
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"]),
        helper.make_node("Add", ["h", "b"], ["s"]),
        helper.make_node("Sigmoid", ["s"], ["y"]),
    ]
    return made(nodes, {"y": 1}, w=weights(16, 1), b=[60.0])


@pytest.mark.parametrize("kinds", [None, {"y": {"kind": "classes", "form": "binary"}}])
def test_a_saturated_output_is_refused(check, kinds):
    with pytest.raises(ConfigError, match=f"output 'y' cannot be judged .*{CONSTANT}"):
        check(saturated(), features(), kinds=kinds)


def quality():
    """A score of one to five, as of speech, which is above zero whatever the weights are."""
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"]),
        helper.make_node("Sigmoid", ["h"], ["s"]),
        helper.make_node("Add", ["s", "one"], ["y"]),
    ]
    return made(nodes, {"y": 1}, w=weights(16, 1), one=[1.0])


def test_a_score_that_is_always_above_zero_is_no_class(check):
    with pytest.raises(ConfigError, match=f"output 'y' cannot be judged .*{CONSTANT}"):
        check(quality(), features(), kinds={"y": {"kind": "classes", "form": "binary logits"}})
    check(quality(), features())  # as values, it can be judged


def hardly_weighted():
    """A score that is the loudness of the input, but for a little that the weights add."""
    nodes = [
        helper.make_node("ReduceMean", ["x"], ["mean"], axes=[1], keepdims=1),
        helper.make_node("MatMul", ["x", "w"], ["h"]),
        helper.make_node("Add", ["mean", "h"], ["y"]),
    ]
    model = made(nodes, {"y": 1}, w=1e-4 * weights(16, 1))
    model.opset_import[0].version = 17
    return model


def test_a_model_whose_answer_hardly_depends_on_its_weights_is_refused(check):
    with pytest.raises(ConfigError, match=f"output 'y' cannot be judged .*{SHUFFLED}"):
        check(hardly_weighted(), features())


def test_a_drop_that_is_too_wide_is_refused_with_the_target(check):
    x = features()
    labels = answers(tiny_model(), x).argmax(axis=1)
    with pytest.raises(ConfigError) as refused:
        check(tiny_model(), x, {"accuracy": {"max_drop": 0.9}}, labels=labels)
    text = str(refused.value)
    assert text.startswith(f"target 't0' cannot judge on these 200 rows: {CONSTANT} (accuracy drop")
    assert "or a tighter limit" in text


def test_labels_by_chance_cannot_judge(check):
    labels = np.random.default_rng(9).integers(0, 4, 200)
    with pytest.raises(ConfigError, match="target 't0' cannot judge on these 200 rows"):
        check(tiny_model(), features(), {"accuracy": {"max_drop": 0.1}}, labels=labels)


def test_of_several_targets_the_one_that_is_too_wide_is_named(check):
    x = features()
    labels = answers(tiny_model(), x).argmax(axis=1)
    good, wide = {"accuracy": {"max_drop": 0.02}}, {"accuracy": {"max_drop": 0.9}}
    with pytest.raises(ConfigError, match="target 't1' cannot judge"):
        check(tiny_model(), x, good, wide, labels=labels)
    loose = {"accuracy": {"min_agreement": 0.1}}
    with pytest.raises(ConfigError, match="output 'y' cannot be judged by target 't1' on these"):
        check(tiny_model(), x, {"accuracy": {"min_agreement": 0.99}}, loose)


def test_an_output_that_labels_judge_is_not_judged_by_the_source_as_well(check):
    x = features(4000)
    numbers = answers(tiny_model(), x).argmax(axis=1)
    first, others = np.flatnonzero(numbers == 0), np.flatnonzero(numbers)
    chosen = np.concatenate([first[:396], others[:4]])
    x, labels = x[chosen], numbers[chosen]
    with pytest.raises(ConfigError, match="output 'y' cannot be judged"):
        check(tiny_model(), x, {"accuracy": {"min_agreement": 0.98}})
    check(
        tiny_model(), x, {"accuracy": {"max_drop": 0.02}}, labels=labels,
        metric="balanced_accuracy",
    )  # fmt: skip


def two_heads(second_bias):
    nodes = [
        helper.make_node("MatMul", ["x", "w1"], ["first_h"]),
        helper.make_node("Softmax", ["first_h"], ["first"], axis=1),
        helper.make_node("MatMul", ["x", "w2"], ["second_h"]),
        helper.make_node("Add", ["second_h", "b"], ["second_s"]),
        helper.make_node("Softmax", ["second_s"], ["second"], axis=1),
    ]
    return made(
        nodes, {"first": 4, "second": 3}, w1=weights(16, 4), w2=0.1 * weights(16, 3, seed=3),
        b=second_bias,
    )  # fmt: skip


def test_the_output_that_cannot_judge_is_named_where_the_other_can(check):
    check(two_heads([0.0, 0.0, 0.0]), features())
    with pytest.raises(ConfigError) as refused:
        check(two_heads([0.0, 9.0, 0.0]), features())
    text = str(refused.value)
    assert text.startswith("output 'second' cannot be judged on these 200 rows: ")
    assert "'first'" not in text
    check(two_heads([0.0, 9.0, 0.0]), features(), kinds={"second": "ignore"})


def test_a_model_without_weights_is_judged_by_constant_answers_alone(check):
    node = helper.make_node("Softmax", ["x"], ["y"], axis=1)
    check(made([node], {"y": 16}), features())


def test_texts_are_looked_at_as_well(check):
    """A classifier of scikit-learn gives names."""
    labels = onnx.helper.make_node(
        "LabelEncoder", ["best"], ["y"], domain="ai.onnx.ml",
        keys_int64s=[0, 1, 2, 3], values_strings=["ant", "bee", "cat", "dog"],
    )  # fmt: skip
    model = tiny_model()
    model.graph.node[2].output[0] = "scores"
    model.graph.node.extend(
        [helper.make_node("ArgMax", ["scores"], ["best"], axis=1, keepdims=0), labels]
    )
    model.graph.output[0].CopyFrom(helper.make_tensor_value_info("y", TensorProto.STRING, ["n"]))
    model.opset_import.append(helper.make_opsetid("ai.onnx.ml", 3))
    x = features(400)
    check(model, x)
    names = answers(model, x)
    with pytest.raises(ConfigError, match=f"output 'y' cannot be judged .*{CONSTANT}"):
        check(model, x[names == "bee"])


def test_an_output_that_no_weight_reaches_is_judged_by_constant_answers_alone(check):
    """Sentence encoders give the mask back beside the vectors."""
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["y"]),
        helper.make_node("Neg", ["x"], ["passed on"]),
    ]
    model = made(nodes, {"y": 4, "passed on": 16}, w=weights(16, 4))
    check(model, features())
    still = features()
    still[:] = still[:1]
    with pytest.raises(ConfigError, match=CONSTANT):
        check(model, still)


def test_weights_of_eight_bits_are_shuffled_too():
    """A source that came quantized has no others."""
    held = np.arange(32, dtype=np.int8).reshape(8, 4)
    graph = helper.make_graph([], "g", [], [], [numpy_helper.from_array(held, "w")])
    mixed = shuffled(helper.make_model(graph)).graph.initializer[0]
    values = numpy_helper.to_array(mixed)
    assert (values != held).any()
    assert sorted(values.ravel()) == sorted(held.ravel())
