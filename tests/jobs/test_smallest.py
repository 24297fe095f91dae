"""The command without config, server or labels: what it writes, and what it refuses."""

import mlflow
import numpy as np
import onnx
import onnxruntime
import pytest
from click.testing import CliRunner
from onnx import TensorProto, helper, numpy_helper

from mlflow_compress import measure, packed
from mlflow_compress.cli.main import cli
from mlflow_compress.jobs.ladders import EFFORTS, Ladder, ladders
from mlflow_compress.jobs.smallest import check, halves, smallest, split_rows
from mlflow_compress.records import Accuracy, DatasetRef, Interval, Recipe, Report, Step
from mlflow_compress.targets import AccuracyLimits, Target
from tests.judged import fidelity as fidelity_of
from tests.tiny import tiny_model

ROWS = DatasetRef("rows", "0" * 64, 100)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with a model, inputs, and labels that the model gets right, and no MLflow."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    model = tiny_model()
    onnx.save(model, "in.onnx")
    rng = np.random.default_rng(1)
    w1, w2 = (numpy_helper.to_array(tensor) for tensor in model.graph.initializer)
    for name in ("calibration", "evaluation"):
        x = rng.normal(size=(200, 16)).astype(np.float32)
        labels = (np.maximum(x @ w1, 0) @ w2).argmax(axis=1)
        np.savez(f"{name}.npz", x=x, labels=labels)
        np.savez(f"{name}-x.npz", x=x)
    return tmp_path


def compress(*args):
    words = ["compress", "in.onnx", "-o", "out.onnx", "--effort", "1", *args]
    return CliRunner().invoke(cli, words, catch_exceptions=False)


def test_a_registered_model_leaves_nothing_of_its_own_in_the_folder(folder, store_uri, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store_uri)
    monkeypatch.chdir(folder)
    with mlflow.start_run():
        mlflow.onnx.log_model(tiny_model(), name="m", registered_model_name="toy")
    before = {path.name for path in folder.iterdir()}
    words = ["compress", "models:/toy/1", "-o", "out.onnx", "--effort", "1", "--calibration",
             "calibration-x.npz", "--min-agreement", "0.9"]  # fmt: skip
    done = CliRunner().invoke(cli, words, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    assert {path.name for path in folder.iterdir()} - before == {"out.onnx"}


@pytest.mark.parametrize("profile", ["portable", "compact"])
def test_without_labels_it_writes_one_smaller_file_that_agrees(folder, profile):
    done = compress("--calibration", "calibration-x.npz", "--profile", profile,
                    "--min-agreement", "0.9")  # fmt: skip
    assert done.exit_code == 0, done.output
    out = folder / "out.onnx"
    x = np.load("evaluation-x.npz")["x"]
    opened = onnxruntime.InferenceSession(str(out)) if profile == "portable" else packed.load(out)
    source = onnxruntime.InferenceSession("in.onnx")
    (made,), (expected,) = opened.run(None, {"x": x}), source.run(None, {"x": x})
    assert (made.argmax(axis=1) == expected.argmax(axis=1)).mean() > 0.8
    onnx.checker.check_model(onnx.load(out), full_check=True)
    assert "confirmed on 50 rows that had no part in making or choosing it" in done.stdout
    assert "made by: " in done.stdout
    assert sorted(path.name for path in folder.iterdir() if "out" in path.name) == ["out.onnx"]


def test_with_labels_accuracy_is_the_gate(folder):
    done = compress(
        "--calibration", "calibration.npz", "--evaluation", "evaluation.npz", "--max-drop", "0.1"
    )
    assert done.exit_code == 0, done.output
    assert "gate: accuracy drop " in done.stdout
    assert "confirmed on 100 rows" in done.stdout
    assert (folder / "out.onnx").stat().st_size < (folder / "in.onnx").stat().st_size


def test_a_gate_that_only_lossless_passes_writes_that_and_exits_3(folder):
    done = compress("--calibration", "calibration-x.npz", "--max-kl", "0")
    assert done.exit_code == 3, done.output
    assert "this is the lossless result" in done.stdout
    assert "next smaller: " in done.stdout
    unpacked = packed.unpack(folder / "out.onnx")
    x = np.load("evaluation-x.npz")["x"]
    session = onnxruntime.InferenceSession(unpacked.SerializeToString())
    expected = onnxruntime.InferenceSession("in.onnx").run(None, {"x": x})[0]
    np.testing.assert_array_equal(session.run(None, {"x": x})[0], expected)


def test_evaluation_rows_alone_are_enough(folder):
    done = compress("--evaluation", "evaluation-x.npz", "--min-agreement", "0.75")
    assert done.exit_code == 0, done.output
    assert "made by: " in done.stdout


@pytest.mark.parametrize(
    ("args", "exit_code", "message"),
    [
        ((), 2, "give --calibration"),
        (("--calibration", "none.npz"), 4, "does not exist"),
        (("--calibration", "calibration-x.npz", "--max-drop", "0.01"), 2, "needs labels"),
        (("--evaluation", "evaluation.npz", "--metric", "acuracy"), 2, "acuracy"),
        (("--evaluation", "evaluation.npz", "--max-drop", "5"), 2, "did you mean 0.05?"),
    ],
)
def test_bad_input_is_one_line_and_writes_nothing(folder, args, exit_code, message):
    done = compress(*args)
    assert done.exit_code == exit_code
    assert message in done.stderr.splitlines()[-1]
    assert not (folder / "out.onnx").exists()


def test_an_existing_output_is_not_replaced_without_force(folder):
    (folder / "out.onnx").write_text("precious")
    done = compress("--evaluation", "evaluation-x.npz")
    assert done.exit_code == 2
    assert "--force" in done.stderr
    assert (folder / "out.onnx").read_text() == "precious"
    assert compress("--evaluation", "evaluation-x.npz", "--force").exit_code in (0, 3)
    assert (folder / "out.onnx").read_bytes() != b"precious"


def test_few_rows_are_refused(folder):
    np.savez("few.npz", x=np.zeros((7, 16), np.float32))
    assert "too few" in compress("--calibration", "few.npz").stderr


def test_rows_that_make_choose_and_confirm_are_disjoint_and_spread():
    data = measure.Dataset({"x": np.arange(10.0)[:, None]}, name="rows")
    seen, kept = split_rows(data)
    choosing, confirming = halves(kept)
    rows = [part.inputs["x"].ravel().tolist() for part in (seen, choosing, confirming)]
    assert rows == [[0, 2, 4, 6, 8], [1, 5, 9], [3, 7]]


def linear_model(weights):
    """Return y = x @ weights."""
    rows, columns = weights.shape
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "linear",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", rows])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", columns])],
        [numpy_helper.from_array(weights, "w")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def test_where_nothing_is_confirmed_gentler_rungs_are_tried(tmp_path):
    """Rows that choose see large weights alone, rows that confirm the small ones alone."""
    rng = np.random.default_rng(4)
    weights = rng.normal(size=(16, 3)).astype(np.float32)
    weights[8:] /= 30
    model = linear_model(weights)
    x = rng.normal(size=(200, 16)).astype(np.float32)
    rows = measure.Dataset({"x": x}, name="rows")
    _, confirming = halves(rows)
    is_confirming = np.isin(x[:, 0], confirming.inputs["x"][:, 0])
    x[is_confirming, :8] = x[~is_confirming, 8:] = 0
    ladder = Ladder(
        "share",
        tuple(
            Recipe((Step("share", {"clusters": n}),), "compact") for n in (40, 32, 24, 16, 8, 4, 2)
        ),
    )
    found = smallest(
        model,
        limits=AccuracyLimits(),
        work_dir=tmp_path,
        evaluation=rows,
        profile="compact",
        plan=[ladder],
    )
    tried = [trial.key for trial in found.trials if trial.key in found.confirmed]
    first, *_, last = list(found.confirmed)
    assert not found.is_lossless
    assert not found.confirmed[first].passed
    assert found.confirmed[last].passed
    assert found.best.key == last
    assert len(tried) > 2


def report(drop=0.0, agreement=1.0, kl=0.0):
    accuracy = Accuracy("accuracy", 0.9 - drop, 0.9, drop, Interval(0, 0), ROWS)
    return Report(
        10, 100, 10.0, 1.0, "", accuracy=accuracy, fidelity=fidelity_of(agreement, kl, ROWS)
    )


@pytest.mark.parametrize(
    ("limits", "given", "passes"),
    [
        (AccuracyLimits(max_drop=0.01), report(drop=0.01), True),
        (AccuracyLimits(max_drop=0.01), report(drop=0.011), False),
        (AccuracyLimits(max_drop=0.002), report(drop=0.9 - 0.898), True),
        (AccuracyLimits(max_drop=0.01), report(drop=float("nan")), False),
        (AccuracyLimits(min_agreement=0.99), report(agreement=0.99), True),
        (AccuracyLimits(min_agreement=0.99), report(agreement=0.98), False),
        (AccuracyLimits(max_kl=0.1), report(kl=0.2), False),
        (AccuracyLimits(max_drop=0.01), Report(10, 100, 10.0, 1.0, ""), False),
        (AccuracyLimits(max_drop=0.01, min_agreement=0.99), report(agreement=0.5), False),
    ],
)
def test_gates_fail_closed(limits, given, passes):
    gates = check(Target("any", accuracy=limits), given)
    assert all(gate.passed for gate in gates) is passes
    assert all(gate.reason for gate in gates)


@pytest.mark.parametrize("has_calibration", [True, False])
def test_more_effort_tries_more(has_calibration):
    counts = [
        sum(len(ladder.rungs) for ladder in ladders(effort, "compact", has_calibration))
        for effort in EFFORTS
    ]
    assert counts == sorted(set(counts))


@pytest.mark.parametrize("effort", [2, 3, 5])
def test_ladders_after_pruning_leave_bits_for_the_values_and_get_stronger(effort):
    names = set()
    for ladder in ladders(effort, "compact", has_calibration=True):
        steps = [{step.technique: step.settings for step in rung.steps} for rung in ladder.rungs]
        if not {"prune", "entropy_share"} <= set(steps[0]):
            continue
        names.add("shrink" if "shrink" in steps[0] else "prune")
        kept = 1 - steps[0]["prune"]["sparsity"]
        zeros = -kept * np.log2(kept) - (1 - kept) * np.log2(1 - kept)
        bits = [step["entropy_share"]["bits"] for step in steps]
        assert bits[0] > zeros + 3 * kept
        assert bits == sorted(bits, reverse=True)
        assert bits[-1] < zeros
        looked = {settings["rows"] for step in steps for t, settings in step.items() if t != "fold"}
        assert len(looked) == 1
    assert names == {"shrink", "prune"}


def test_the_source_s_outputs_can_be_the_labels(folder):
    done = compress(
        "--calibration", "calibration-x.npz", "--metric", "mae", "--labels", "source",
        "--max-drop", "1.5",
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    checked = next(line for line in done.stdout.splitlines() if line.startswith("  mae"))
    assert "%" not in checked.replace("[95 %]", ""), "an error of values is no share"
    assert "mae: 0." in checked
