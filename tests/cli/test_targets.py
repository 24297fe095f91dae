"""The commands on target profiles."""

import json
import sys
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

import mlflow_compress
from mlflow_compress.cli.main import cli
from mlflow_compress.targets import load_target, shipped_names


def call(*args, code=0):
    done = CliRunner().invoke(cli, ["targets", *args], catch_exceptions=False)
    assert done.exit_code == code, done.output
    return done


def ask(*args, code=0):
    return json.loads(call(*args, "--json", code=code).stdout)


@pytest.fixture
def write(tmp_path):
    """Return a function that writes a profile and returns its path."""

    def profile(**keys):
        path = tmp_path / "kiosk.yaml"
        path.write_text(yaml.safe_dump({"accuracy": {"max_drop": 0.01}, **keys}))
        return str(path)

    return profile


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A place of a device that is this Python behind a command."""
    monkeypatch.setenv("PYTHONPATH", str(Path(mlflow_compress.__file__).parents[1]))
    path = tmp_path / "box"
    path.write_text(f'#!/bin/sh\nshift\nexec {sys.executable} "$@"\n')
    path.chmod(0o755)
    return f"cmd:{path}"


def test_list_has_every_shipped_profile():
    assert [one["name"] for one in ask("list")["targets"]] == list(shipped_names())
    shown = call("list").stdout
    assert all(f" {name} " in shown for name in shipped_names())


def test_show_prints_a_profile_that_can_be_loaded(tmp_path, write):
    path = tmp_path / "mine.yaml"
    path.write_text(call("show", "raspberry-pi-4").stdout)
    assert load_target(str(path)) == load_target("raspberry-pi-4")
    data = ask("show", write(extends="browser", limits={"size": "60kB"}))
    assert data["limits"] == {"size": "60kB", "latency_p50": "50ms"}
    assert data["name"] == "kiosk"


def test_check_confirms_a_device(write, here):
    execution = {"opset": 17, "memory": "1MB", "runtime_version": ">=1.17"}
    found = ask("check", write(execution=execution, measured_on=here))
    assert (found["measured_on"], found["emulated"]) == (here, False)
    verdicts = {one["field"]: one["verdict"] for one in found["findings"]}
    assert verdicts == {
        "execution.threads": "confirmed",
        "execution.cores": "not checked",
        "execution.memory": "confirmed",
        "execution.runtime_version": "confirmed",
        "execution.providers": "confirmed",
        "execution.profiles": "confirmed",
        "execution.opset": "confirmed",
    }


@pytest.mark.parametrize(
    ("execution", "problem"),
    [
        ({"cores": 999}, "execution.cores is 999, it has "),
        ({"memory": "900GB"}, "execution.memory is 900000000000 bytes, it has "),
        ({"runtime_version": ">=99"}, "execution.runtime_version is >=99, its onnxruntime is "),
        ({"opset": 99}, "execution.opset is 99, its onnxruntime says: "),
        ({"providers": ["NoExecutionProvider"]}, "execution.providers has NoExecutionProvider"),
    ],
)
def test_check_refuses_what_a_device_contradicts(write, here, execution, problem):
    done = call("check", write(execution=execution), "--on", here, code=2)
    assert f"error: target 'kiosk' on {here}: {problem}" in done.stderr
    assert "contradicted" in done.stdout


def test_this_machine_stands_for_a_device_unless_it_is_said_to_be_it(write):
    profile = write(execution={"cores": 999})
    assert "its numbers are emulated" in call("check", profile).stdout
    call("check", profile, "--on", "local", code=2)


@pytest.mark.parametrize(
    ("args", "code", "message"),
    [
        (("check", "raspberri-pi-4"), 2, "did you mean 'raspberry-pi-4'?"),
        (("show", "none.yaml"), 2, "target file none.yaml: No such file"),
        (("check", "browser", "--on", "ftp://box"), 2, "'ftp://box': must be local, ssh://user@"),
        (("check", "browser", "--on", "cmd:/nowhere/x"), 5, "device cmd:/nowhere/x: "),
    ],
)
def test_bad_input_is_one_line(args, code, message):
    done = call(*args, code=code)
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ")
    assert message in line
