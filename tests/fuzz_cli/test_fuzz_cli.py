"""A sample of ``make fuzz-cli``, and proof that what it looks for would be found."""

import subprocess
import sys

import pytest

from tests.fuzz_cli.examples import Example, commands
from tests.fuzz_cli.running import Done, findings_of


def test_a_sample(tmp_path):
    """In a process of its own: each example is a fork, and a test's process has threads."""
    out = tmp_path / "findings"
    command = [sys.executable, "-m", "tests.fuzz_cli.campaign", "--out", str(out)]
    done = subprocess.run(
        [*command, "--examples", "60", "--jobs", "1"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "examples=60 findings=0" in done.stdout


def test_every_command_is_tried():
    assert {("compress",), ("run",), ("nas", "train"), ("webhook", "serve")} <= commands().keys()


BEFORE = {"tiny.onnx": (1,), "mlflow.db": (1,)}


@pytest.mark.parametrize(
    ("done", "now", "finding"),
    [
        (Done(0, "", "", 90, hung=True), {}, "hang"),
        (Done(7, "", "error: x\n", 1), {}, "exit code 7 is not documented"),
        (Done(-11, "", "error: x\n", 1), {}, "exit code -11 is not documented"),
        (Done(1, "", "Traceback (most recent call last):\nKeyError: 1\n", 1), {}, "Traceback"),
        (Done(1, "", "error: this should not happen: KeyError\n", 1), {}, "this should not happen"),
        (Done(2, "", "error: x\nerror: y\n", 1), {}, "several error lines"),
        (Done(2, "", "", 1), {}, "exit code 2 without a word"),
        (Done(0, "", "error: x\n", 1), {}, "an error with exit code 0"),
        (Done(0, "{", "", 1), {}, "--json printed no JSON"),
        (Done(0, "{}", "", 1), {"tiny.onnx": (2,)}, "a file of the user's was changed: tiny.onnx"),
        (Done(0, "{}", "", 1), {"tiny.onnx": None}, "a file of the user's was deleted: tiny.onnx"),
        (Done(0, "{}", "", 1), {".tiny.onnx.x": (1,)}, "left behind: .tiny.onnx.x"),
        (Done(1, "", "error: x", 1), {"o.onnx": (1,)}, "written although it ended with 1: o.onnx"),
    ],
)  # fmt: skip
def test_each_kind_of_fault_is_a_finding(done, now, finding):
    example = Example(("inspect", "tiny.onnx", "--json", "-o", "o.onnx"))
    after = {name: state for name, state in (BEFORE | now).items() if state is not None}
    assert any(one.startswith(finding) for one in findings_of(example, done, BEFORE, after))


@pytest.mark.parametrize(
    ("done", "now"),
    [
        (Done(0, "{}", "", 1), {"mlflow.db": (2,), "o.onnx": (1,), "artifacts/x": (1,)}),
        (Done(2, "", "error: so it is\n", 1), {}),
    ],
)
def test_what_is_right_is_none(done, now):
    example = Example(("inspect", "tiny.onnx", "--json", "-o", "o.onnx"))
    assert not list(findings_of(example, done, BEFORE, BEFORE | now))
