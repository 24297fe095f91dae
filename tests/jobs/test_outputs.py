"""``compress`` judges every output by what it is, whatever the model."""

import numpy as np
import onnx
import onnxruntime
import pytest
from click.testing import CliRunner
from onnx import TensorProto, helper, numpy_helper

from mlflow_compress import packed
from mlflow_compress.cli.main import cli
from mlflow_compress.jobs.smallest import Smallest, check
from mlflow_compress.measure import Dataset
from mlflow_compress.records import DatasetRef, Recipe, Report, Step, Trial, Variant
from mlflow_compress.targets import AccuracyLimits, Target
from tests.judged import fidelity

ROWS = 240


def net(heads, hidden=48, width=12, seed=0):
    """Return a network with a head for each (name, columns, last operator, offset)."""
    rng = np.random.default_rng(seed)
    weights = {
        "hidden_w": rng.normal(size=(width, hidden)) / width**0.5,
        "hidden_b": rng.normal(size=hidden),
    }
    nodes = [
        helper.make_node("Gemm", ["x", "hidden_w", "hidden_b"], ["g"]),
        helper.make_node("Relu", ["g"], ["h"]),
    ]
    outputs = []
    for name, columns, last, offset in heads:
        weights[f"w_{name}"] = rng.normal(size=(hidden, columns)) / hidden**0.5
        weights[f"b_{name}"] = np.full(columns, float(offset))
        gemm = f"{name}_g" if last else name
        nodes.append(helper.make_node("Gemm", ["h", f"w_{name}", f"b_{name}"], [gemm]))
        if last:
            nodes.append(helper.make_node(last, [gemm], [name]))
        outputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", columns]))
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", width])],
        outputs,
        [numpy_helper.from_array(a.astype(np.float32), name) for name, a in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.fixture
def compress(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def run(model, *words, rows=ROWS, x=None):
        onnx.save(model, "in.onnx")
        rng = np.random.default_rng(1)
        x = rng.normal(size=(rows, 12)).astype(np.float32) if x is None else x
        np.savez("rows.npz", x=x)
        args = ["compress", "in.onnx", "-o", "out.onnx", "--calibration", "rows.npz",
                "--profile", "compact", "--effort", "1", *words]  # fmt: skip
        return CliRunner().invoke(cli, args, catch_exceptions=False)

    return run


def new_outputs(rows=2000):
    """Return what source and result give on rows that neither has seen."""
    x = np.random.default_rng(2).normal(size=(rows, 12)).astype(np.float32)
    before = onnxruntime.InferenceSession("in.onnx").run(None, {"x": x})
    return before, packed.load("out.onnx").run(None, {"x": x})


def error(before, after):
    return float(((before - after) ** 2).mean() / before.var())


def test_a_regressor_keeps_its_values_and_not_its_signs_alone(compress):
    done = compress(net([("price", 1, "", 900)]))
    assert done.exit_code == 0, done.output
    assert "output `price`: values" in done.stderr
    (before,), (after,) = new_outputs()
    assert error(before, after) <= 0.01


def test_every_head_is_judged(compress):
    done = compress(net([("easy", 2, "", 3), ("logits", 12, "", 0), ("level", 1, "", 0)]))
    assert done.exit_code in (0, 3), done.output
    before, after = new_outputs()
    assert error(before[0], after[0]) <= 0.01
    assert (before[1].argmax(1) == after[1].argmax(1)).mean() >= 0.985
    assert error(before[2], after[2]) <= 0.01
    for name in ("easy", "logits", "level"):
        assert f"of {name} " in done.stdout


def test_an_embedding_is_compressed_by_its_cosine(compress):
    done = compress(net([("embedding", 32, "", 0)]))
    assert done.exit_code == 0, done.output
    assert "gate: cosine " in done.stdout
    (before,), (after,) = new_outputs()
    norms = np.linalg.norm(before, axis=1) * np.linalg.norm(after, axis=1)
    assert ((before * after).sum(axis=1) / norms).mean() >= 0.995


def test_few_rows_cost_size_and_not_the_promise(compress):
    model = net([("p", 6, "Softmax", 0)])
    few = compress(model, rows=72)
    small = onnx.load("out.onnx").ByteSize()
    (before,), (after,) = new_outputs(4000)
    assert (before.argmax(1) == after.argmax(1)).mean() >= 0.99
    assert few.exit_code in (0, 3)
    many = compress(model, "--force", rows=1600)
    assert many.exit_code == 0
    assert onnx.load("out.onnx").ByteSize() <= small


def test_it_says_how_many_more_rows_may_confirm_a_smaller_file():
    rows = DatasetRef("rows", "0" * 64, 100)

    def trial(number, size, agreement, margin):
        report = Report(size, 1000, 1000 / size, 1.0, "",
                        fidelity=fidelity(agreement, 0.0, rows, margin=margin))  # fmt: skip
        recipe = Recipe((Step("share", {"clusters": size}),))
        return Trial(number, f"k{number}", recipe, "complete",
                     variant=Variant(f"k{number}", recipe, report))  # fmt: skip

    wrong, unsure, best = trial(0, 20, 0.98, 0.01), trial(1, 50, 0.995, 0.01), trial(2, 90, 1, 0)
    target = Target("any", accuracy=AccuracyLimits(min_agreement=0.99, confidence=0.95))
    gates = {t.key: check(target, t.variant.report) for t in (wrong, unsure, best)}
    data = Dataset({"x": np.zeros((4, 1))})
    found = Smallest(best, False, (wrong, unsure, best), gates, {}, data, target)
    assert found.waiting == (unsure, 300)  # half the distance takes four times the rows
    nothing = Smallest(best, False, (wrong, best), gates, {}, data, target)
    assert nothing.waiting is None


def test_what_is_said_of_an_output_counts(compress):
    model = net([("a", 4, "", 0), ("b", 8, "", 0)])
    done = compress(model, "--kind", "a=classes", "--kind", "b=ignore")
    assert done.exit_code in (0, 3), done.output
    assert "output `b`: ignore, as you say so" in done.stderr
    assert " of b " not in done.stdout


def test_a_limit_of_one_output_counts(compress):
    model = net([("a", 4, "", 0), ("b", 8, "", 0)])
    loose = compress(model)
    size = onnx.load("out.onnx").ByteSize()
    strict = compress(model, "--force", "--limit", "b.error=1e-9")
    assert loose.exit_code == 0
    assert strict.exit_code == 3, strict.output
    assert onnx.load("out.onnx").ByteSize() > size


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--kind", "c=classes"), "no output 'c'"),
        (("--kind", "a=clases"), "did you mean 'classes'"),
        (("--limit", "c.error=1"), "no such output"),
        (("--limit", "a.recall=0.9"), "of which error, snr, r2 is measured"),
        (("--limit", "recall=0.9"), "name the output"),
        (("--limit", "error=much"), "no number"),
        (("--limit", "map=0.9"), "the model has none"),
        (("--min-agreement", "0.9"), "the model has none"),
    ],
)
def test_what_cannot_be_is_refused_in_a_line(compress, tmp_path, words, message):
    done = compress(net([("a", 4, "", 0), ("b", 8, "", 0)]), *words)
    assert done.exit_code == 2
    assert message in done.stderr.strip().splitlines()[-1]
    assert not (tmp_path / "out.onnx").exists()


def test_rows_of_one_class_and_saturated_outputs_are_refused(compress, tmp_path):
    rng = np.random.default_rng(3)
    near = (5 + 0.01 * rng.normal(size=(64, 12))).astype(np.float32)
    one_class = compress(net([("p", 3, "Softmax", 0)]), x=near)
    saturated = compress(net([("q", 1, "Sigmoid", 200)]), "--force")
    for done, name in ((one_class, "'p'"), (saturated, "'q'")):
        assert done.exit_code == 2, done.output
        assert f"output {name} cannot be judged" in done.stderr
    assert not (tmp_path / "out.onnx").exists()


def test_the_metric_reads_the_output_that_is_named(compress):
    model = net([("level", 1, "", 0), ("vector", 8, "", 0)])
    words = ["--metric", "cosine", "--labels", "source", "--max-drop", "0.01"]
    done = compress(model, *words, "--metric-output", "vector", "--evaluation", "rows.npz")
    assert done.exit_code == 0, done.output
    assert "gate: error of level " in done.stdout
    assert "gate: error of vector" not in done.stdout
    wrong = compress(model, *words, "--metric-output", "vektor", "--evaluation", "rows.npz",
                     "--force")  # fmt: skip
    assert wrong.exit_code == 2
    assert "did you mean 'vector'?" in wrong.stderr


def test_a_mask_that_is_passed_on_costs_nothing(compress):
    """Counting equal masks of 20 rows would never come to 99 % for sure."""
    model = net([("level", 1, "", 0)])
    model.graph.node.append(helper.make_node("Greater", ["x", "limit"], ["mask_out"]))
    model.graph.initializer.append(numpy_helper.from_array(np.float32(-9), "limit"))
    model.graph.output.append(
        helper.make_tensor_value_info("mask_out", TensorProto.BOOL, ["n", 12])
    )
    done = compress(model, rows=80)
    assert done.exit_code == 0, done.output
    assert "gate: agreement of mask_out 100.00 % is at least 99.00 %" in done.stdout
