"""Our own form of the source is compared with it as it came; what changes it is refused by name."""

import hashlib
from dataclasses import replace

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from mlflow_compress import measure, packed
from mlflow_compress.errors import ConfigError, SourceError, TechniqueError
from mlflow_compress.records import Output, Recipe, Step
from mlflow_compress.search import TrialEvaluator, check_same, look_at_source, trial
from mlflow_compress.targets import load_target
from mlflow_compress.techniques import normalize
from mlflow_compress.techniques.graph.walk import opset
from tests.tiny import CLASSES, tiny_model

ROWS = 96
SHARED = Recipe((Step("share", {"clusters": 64}),), "compact")
FOUR_BITS = Recipe((Step("weight_only", {"bits": 4, "method": "rtn"}),), "compact")
"""Raises the opset: integers are scaled along an axis from opset 13 on."""


def rows(count=ROWS):
    x = np.random.default_rng(2).normal(size=(count, 16)).astype(np.float32)
    return measure.Dataset({"x": x})


def damaged(model, name="w2", by=1.05):
    """Return a copy whose weight is larger than it was."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    (tensor,) = (one for one in copy.graph.initializer if one.name == name)
    tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * np.float32(by), name))
    return copy


def two_heads():
    """A network with a score beside its classes, each with weights of its own."""
    model = tiny_model()
    w3 = np.random.default_rng(5).normal(size=(64, 1)).astype(np.float32)
    model.graph.initializer.append(numpy_helper.from_array(w3, "w3"))
    model.graph.node.append(helper.make_node("MatMul", ["r", "w3"], ["score"]))
    model.graph.output.append(helper.make_tensor_value_info("score", TensorProto.FLOAT, ["n", 1]))
    return model


def branches():
    """An If whose branches have a weight of the same name each."""
    rng = np.random.default_rng(7)

    def branch(name):
        weight = numpy_helper.from_array(rng.normal(size=(16, 4)).astype(np.float32), "w")
        node = helper.make_node("MatMul", ["x", "w"], [f"{name}_y"])
        value = helper.make_tensor_value_info(f"{name}_y", TensorProto.FLOAT, None)
        return helper.make_graph([node], name, [], [value], [weight])

    nodes = [
        helper.make_node("ReduceMean", ["x"], ["mean"], keepdims=0),
        helper.make_node("Greater", ["mean", "zero"], ["above"]),
        helper.make_node("If", ["above"], ["y"], then_branch=branch("a"), else_branch=branch("b")),
    ]
    graph = helper.make_graph(
        nodes,
        "branches",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 16])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 4])],
        [numpy_helper.from_array(np.array(0, np.float32), "zero")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def test_a_normalisation_that_changes_nothing_tells_what_the_outputs_are():
    model = two_heads()
    told = look_at_source(model, normalize(model), rows(), {"y": "classes"})
    assert [(one.name, one.kind) for one in told] == [("y", "classes"), ("score", "values")]


def test_a_normalisation_that_changes_an_output_is_refused_by_name():
    model = two_heads()
    said = r"normalisation changes the source's output 'score' \(normalised error 0\.00\d+\)"
    with pytest.raises(SourceError, match=said):
        look_at_source(model, damaged(normalize(model), "w3"), rows())


def test_an_output_that_is_not_judged_must_not_change_either():
    model = two_heads()
    with pytest.raises(SourceError, match="normalisation changes the source's output 'score'"):
        look_at_source(model, damaged(normalize(model), "w3"), rows(), {"score": "ignore"})


def test_a_normalisation_that_loses_an_output_is_refused_by_name():
    model = two_heads()
    normal = normalize(model)
    del normal.graph.output[1]
    with pytest.raises(SourceError, match="normalisation loses the source's output 'score'"):
        look_at_source(model, normal, rows())


def test_branches_keep_their_own_weights():
    model = branches()
    (told,) = look_at_source(model, normalize(model), rows(32))
    assert told.name == "y"


def test_what_targets_say_of_outputs_is_looked_at_as_well():
    model = tiny_model()
    target = load_target({"name": "t", "accuracy": {"limits": {"z": {"error": 0.1}}}})
    with pytest.raises(ConfigError, match=r"accuracy.limits.z: the model has no such output"):
        look_at_source(model, normalize(model), rows(), targets=[target])
    asking = load_target({"name": "t", "accuracy": {"min_agreement": 0.9}})
    (told,) = look_at_source(model, normalize(model), rows(), targets=[asking])
    assert (told.kind, told.reason) == ("classes", "min_agreement limits it")


VALUES = Output("y", "values", axis=1)
NUMBERS = Output("y", "classes", "numbers")
TEXTS = Output("y", "classes", "texts")


def test_rounding_is_no_change():
    wanted = np.random.default_rng(0).normal(size=(64, 4)).astype(np.float32)
    check_same({"y": wanted}, {"y": wanted * np.float32(1 + 1e-5)}, (VALUES,), "step")
    with pytest.raises(SourceError, match=r"step changes the source's output 'y' \(normalised"):
        check_same({"y": wanted}, {"y": wanted * np.float32(1.002)}, (VALUES,), "step")


def test_a_few_ties_of_whole_numbers_may_turn_over():
    wanted = np.arange(5000, dtype=np.int64)
    got = wanted.copy()
    got[:5] += 1
    check_same({"y": wanted}, {"y": got}, (NUMBERS,), "step")
    got[5] += 1
    with pytest.raises(SourceError, match=r"output 'y' \(6 of 5000 values\)"):
        check_same({"y": wanted}, {"y": got}, (NUMBERS,), "step")


def test_texts_must_be_the_same():
    wanted = np.array(["cat", "dog"] * 8, object)
    check_same({"y": wanted}, {"y": wanted.copy()}, (TEXTS,), "step")
    with pytest.raises(SourceError, match=r"output 'y' \(16 of 16 values\)"):
        check_same({"y": wanted}, {"y": wanted[::-1]}, (TEXTS,), "step")


@pytest.mark.parametrize("kind", [VALUES, NUMBERS])
def test_another_shape_is_a_change(kind):
    wanted = np.ones((8, 4), np.float32 if kind is VALUES else np.int64)
    with pytest.raises(SourceError, match="step changes the source's output 'y'"):
        check_same({"y": wanted}, {"y": wanted[:, :3]}, (kind,), "step")


def test_nan_where_the_source_has_it_is_no_change_and_a_new_one_is():
    wanted = np.random.default_rng(0).normal(size=(64, 4)).astype(np.float32)
    wanted[3, 1] = np.nan
    check_same({"y": wanted}, {"y": wanted.copy()}, (VALUES,), "step")
    got = wanted.copy()
    got[5, 0] = np.nan
    with pytest.raises(SourceError, match=r"output 'y' \(normalised error inf\)"):
        check_same({"y": wanted}, {"y": got}, (VALUES,), "step")


@pytest.fixture
def evaluator(tmp_path):
    model = tiny_model()
    model.opset_import[0].version = 11
    model.ir_version = 6
    model = normalize(model)
    return TrialEvaluator(
        source=model,
        uri="models:/tiny/1",
        source_digest=hashlib.sha256(model.SerializeToString()).hexdigest(),
        source_bytes=measure.weight_bytes(model),
        evaluation=rows(),
        outputs=CLASSES,
        work_dir=tmp_path,
        latency_rounds=0,
    )


def test_an_opset_that_changes_an_output_is_refused_by_name(evaluator, monkeypatch):
    real, raised = trial.raise_opset, []

    def raise_opset(model, version):
        raised.append(version)
        return damaged(real(model, version))

    monkeypatch.setattr(trial, "raise_opset", raise_opset)
    evaluator.make(SHARED, "kept")  # its opset is the source's
    assert raised == []
    said = r"raising the opset to 13 changes the source's output 'y' \(normalised error"
    for key in ("first", "second"):
        with pytest.raises(TechniqueError, match=said):
            evaluator.make(FOUR_BITS, key)
    assert raised == [13], "it is looked at once"


def test_an_opset_that_changes_nothing_is_fine(evaluator):
    made = evaluator.make(FOUR_BITS, "key")
    assert opset(packed.unpack(evaluator.work_dir / "key.onnx")) == 13
    assert made.variant.report.fidelity.agreement > 0.5


@pytest.mark.parametrize("profile", ["compact", "portable"])
def test_packing_that_changes_an_output_is_refused_by_name(evaluator, monkeypatch, profile):
    real = packed.pack
    monkeypatch.setattr(packed, "pack", lambda model, profile: real(damaged(model), profile))
    said = f"packing in the {profile} profile changes the source's output 'y' .normalised error"
    for recipe in (Recipe((), profile), replace(SHARED, profile=profile)):
        with pytest.raises(TechniqueError, match=said):
            evaluator.make(recipe, recipe.digest)


def test_one_profile_does_not_stand_for_the_other(evaluator, monkeypatch):
    real = packed.pack

    def pack(model, profile):
        return real(damaged(model) if profile == "portable" else model, profile)

    monkeypatch.setattr(packed, "pack", pack)
    evaluator.make(SHARED, "compact")
    with pytest.raises(TechniqueError, match="packing in the portable profile changes"):
        evaluator.make(replace(SHARED, profile="portable"), "portable")


@pytest.mark.parametrize("profile", ["compact", "portable"])
def test_lossless_is_fine_and_the_same(evaluator, profile):
    fidelity = evaluator.make(Recipe((), profile), "key").variant.report.fidelity
    assert (fidelity.agreement, fidelity.score, fidelity.broken) == (1, 1, 0)
    assert fidelity.outputs[0].measures["error"] == 0
