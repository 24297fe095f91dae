"""Whatever happens is one line with a documented exit code, and never a traceback."""

import os
import subprocess
import sys
import time
from pathlib import Path

import click
import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from onnx import numpy_helper

from mlflow_compress import packed
from mlflow_compress.cli import main as module
from mlflow_compress.cli.main import cli
from tests.packed.packed_models import mlp


@pytest.fixture
def model(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    onnx.save(mlp(dims=(60, 40, 10)), "m.onnx")
    return "m.onnx"


def failing(error):
    def fail(*_, **__):
        raise error

    return fail


@pytest.mark.parametrize(
    ("error", "line", "code"),
    [
        (ZeroDivisionError("a\nb"), "this should not happen: ZeroDivisionError: a b (", 1),
        (ValueError("MLFLOW_X value must be one of"), "MLFLOW_X value must be one of", 2),
        (EOFError(), "this should not happen: EOFError (", 1),
        (MemoryError("1 TiB"), "there is not enough memory: 1 TiB; give fewer rows", 1),
        (OSError(5, "Input/output error", "x"), "'x': Input/output error", 1),
        (OSError(28, "No space left on device"), "No space left on device; make room, also in ", 1),
        (KeyboardInterrupt(), "stopped by Ctrl-C; nothing was written", 130),
        (UnicodeEncodeError("utf-8", "m\udcff", 1, 2, "surrogates not allowed"),
         r"'m\udcff': a name whose bytes are not UTF-8, which cannot be kept in records:", 2),
        (ValueError("\udcff"), r"this should not happen: ValueError: \udcff", 1),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else "",
)  # fmt: skip
def test_an_accident_is_one_line(model, monkeypatch, error, line, code):
    monkeypatch.setattr(packed, "pack_file", failing(error))
    done = CliRunner().invoke(cli, ["pack", model, "-o", "p.onnx"])
    assert done.exit_code == code and code in map(int, module.EXIT_CODES)
    assert done.output.startswith(f"error: {line}") and done.output.count("\n") == 1


HIDING = """
import sys

class Hidden:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == {module!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Hidden())
from mlflow_compress.cli.main import main
main()
"""
"""Runs the command line where a module is not installed."""


@pytest.mark.parametrize(
    ("module", "command", "line"),
    [
        (
            "torch",
            ["nas", "train", "space.yaml"],
            "architecture search needs PyTorch: pip install 'mlflow-compress[torch]'",
        ),
        ("rich", ["inspect", "p.onnx"], "package 'rich' is not installed: pip install 'rich'"),
        (
            "onnxruntime",
            ["verify", "p.onnx"],
            "package 'onnxruntime' is not installed: pip install 'onnxruntime'",
        ),
    ],
)
def test_a_package_that_is_not_installed_is_named(model, module, command, line):
    """In a process of its own: another test may have imported what would be missing."""
    onnx.save(packed.pack(onnx.load(model)), "p.onnx")
    program = HIDING.format(module=module)
    done = subprocess.run(
        [sys.executable, "-c", program, *command], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (2, f"error: {line}\n")


@pytest.mark.parametrize("module", ["click", "numpy"])
@pytest.mark.parametrize("command", [["verify", "p.onnx"], ["--help"]])
def test_what_even_the_command_line_needs_is_named(model, module, command):
    """As on a device, where the package lies alone with what reads packed models."""
    onnx.save(packed.pack(onnx.load(model)), "p.onnx")
    program = (
        f"import runpy, sys; sys.modules[{module!r}] = None; "
        "runpy.run_module('mlflow_compress', run_name='__main__', alter_sys=True)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, *command], capture_output=True, text=True, check=False
    )
    if (module, command) == ("numpy", ["--help"]):
        assert (done.returncode, done.stderr) == (0, "")
        return
    line = f"error: package {module!r} is not installed: pip install '{module}'\n"
    assert (done.returncode, done.stderr, done.stdout) == (2, line, "")


def test_the_console_script_is_the_same():
    text = (Path(__file__).parents[2] / "setup.py").read_text(encoding="utf-8")
    assert '"mlflow-compress = mlflow_compress.__main__:main"' in text


ODD = os.fsdecode(b"m\xff.onnx")


def test_files_whose_names_are_no_text_are_read_and_written(model):
    Path(model).rename(ODD)
    done = [
        CliRunner().invoke(cli, [str(one) for one in command])
        for command in (
            ["pack", ODD, "-o", f"p{ODD}"],
            ["verify", f"p{ODD}"],
            ["inspect", f"p{ODD}"],
            ["unpack", f"p{ODD}", "-o", f"u{ODD}"],
        )
    ]
    assert [one.exit_code for one in done] == [0] * 4
    assert onnx.load(f"u{ODD}") == onnx.load(ODD)


@pytest.mark.parametrize("name", [ODD, "lenet\udcff"])
def test_a_name_that_is_no_text_is_said_where_it_cannot_be_kept(model, name):
    done = CliRunner().invoke(cli, ["status", name, "--tracking-uri", "sqlite:///m.db"])
    assert done.exit_code == 2
    assert r"\udcff" in done.stderr and done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    "command", [["pack", "{}/m.onnx", "-o", "p.onnx"], ["status", "{}/compress.yaml"]]
)
def test_a_current_folder_that_was_deleted_is_said(model, tmp_path, monkeypatch, command):
    Path("compress.yaml").write_text("source: m.onnx\ndata: {evaluation: rows.npz}\n")
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    done = CliRunner().invoke(cli, [part.format(tmp_path) for part in command])
    monkeypatch.chdir(tmp_path)
    assert done.exit_code == 2
    assert done.stderr == "error: the current folder was deleted: change into another one\n"


@pytest.mark.parametrize("columns", ["60", "400"])
def test_what_a_name_would_tell_a_terminal_is_seen_and_not_done(model, monkeypatch, columns):
    monkeypatch.setenv("COLUMNS", columns)
    odd = onnx.load(model)
    name = "\x1b[31mred\x07\u202eevil"
    for node in odd.graph.node:
        inputs = [name if one == odd.graph.initializer[0].name else one for one in node.input]
        del node.input[:]
        node.input.extend(inputs)
    odd.graph.initializer[0].name = name
    onnx.save(packed.pack(odd), "p.onnx")
    shown = CliRunner().invoke(cli, ["inspect", "p.onnx"]).output
    assert r"\x1b[31mred" in shown
    refused = CliRunner().invoke(cli, ["verify", name]).output
    assert refused == "error: no model file at '\\x1b[31mred\\x07\\u202eevil'\n"
    assert not {"\x1b", "\x07", "\u202e"} & set(shown + refused)


def test_every_command_prints_through_what_makes_it_seen():
    for path in Path(module.__file__).parent.glob("*.py"):
        text = path.read_text(encoding="utf-8")
        assert text.count("click.echo(") == (2 if path.name == "output.py" else 0), path
        assert "click.secho(" not in text and "Console(" not in text.replace("Seen(Console)", "")


def test_the_traceback_is_there_for_who_asks(model, monkeypatch):
    monkeypatch.setenv("MLFLOW_COMPRESS_DEBUG", "1")
    monkeypatch.setattr(packed, "pack_file", failing(ZeroDivisionError("odd")))
    done = CliRunner().invoke(cli, ["pack", model, "-o", "p.onnx"])
    assert isinstance(done.exception, ZeroDivisionError)


@pytest.mark.parametrize("error", [click.UsageError("so"), click.exceptions.Exit(3)])
def test_what_click_means_stays(model, monkeypatch, error):
    monkeypatch.setattr(packed, "pack_file", failing(error))
    done = CliRunner().invoke(cli, ["pack", model, "-o", "p.onnx"])
    assert done.exit_code == getattr(error, "exit_code", 2)
    assert "should not happen" not in done.output


@pytest.mark.parametrize("name", ["[bold]w[/red]", "[/]", "a[0]", "\\[x]"])
def test_names_in_brackets_are_names(model, name):
    odd = onnx.load(model)
    old = odd.graph.initializer[0].name
    odd.graph.initializer[0].name = name
    for node in odd.graph.node:
        node.input[:] = [name if one == old else one for one in node.input]
    onnx.save(odd, "odd.onnx")
    CliRunner().invoke(cli, ["pack", "odd.onnx", "-o", "p.onnx"], catch_exceptions=False)
    done = CliRunner().invoke(cli, ["inspect", "p.onnx"], catch_exceptions=False)
    assert done.exit_code == 0 and f" {name} " in done.output


@pytest.mark.parametrize("metric", [".:x", "..a:x", "math:pi"])
def test_a_metric_that_is_no_function_is_said(model, metric):
    rows = np.random.default_rng(0).normal(size=(40, 60)).astype(np.float32)
    np.savez("rows.npz", **{onnx.load(model).graph.input[0].name: rows}, labels=np.arange(40) % 10)
    done = CliRunner().invoke(
        cli,
        ["compress", model, "-o", "o.onnx", "--calibration", "rows.npz", "--evaluation", "rows.npz",
         "--metric", metric, "--max-drop", "0.1", "--effort", "1"],
    )  # fmt: skip
    assert done.exit_code in (2, 4), done.output
    assert repr(metric) in done.output and "should not happen" not in done.output


@pytest.mark.parametrize("output", ["", ".", "..", "folder"])
def test_an_output_that_is_a_folder_is_said(model, tmp_path, output):
    (tmp_path / "folder").mkdir()
    done = CliRunner().invoke(cli, ["pack", model, "-o", output, "--force"])
    assert done.exit_code == 2 and "is a folder, and only a file is replaced" in done.output


def test_what_fails_in_click_itself_is_one_line(monkeypatch):
    monkeypatch.setattr(click.Group, "make_context", failing(OSError(24, "Too many open files")))
    done = CliRunner().invoke(cli, ["schema"])
    assert (done.exit_code, done.output) == (1, "error: Too many open files\n")


def test_ctrl_c_while_options_are_read_is_ctrl_c(model, monkeypatch):
    monkeypatch.setattr(click.Group, "parse_args", failing(KeyboardInterrupt()))
    done = CliRunner().invoke(cli, ["verify", model])
    assert (done.exit_code, done.output) == (130, "error: stopped by Ctrl-C; nothing was written\n")


def test_onnxruntime_sends_nothing_unless_somebody_says_so(monkeypatch):
    monkeypatch.delenv("ORT_DISABLE_TELEMETRY", raising=False)
    CliRunner().invoke(cli, ["schema"])
    assert os.environ["ORT_DISABLE_TELEMETRY"] == "1"
    monkeypatch.setenv("ORT_DISABLE_TELEMETRY", "0")
    CliRunner().invoke(cli, ["schema"])
    assert os.environ["ORT_DISABLE_TELEMETRY"] == "0"


def test_ctrl_c_before_click_is_asked_is_ctrl_c(monkeypatch, capsys):
    monkeypatch.setattr(module.cli, "main", failing(KeyboardInterrupt()))
    with pytest.raises(SystemExit) as left:
        module.main(["schema"])
    assert left.value.code == 130
    assert capsys.readouterr().err == "error: stopped by Ctrl-C; nothing was written\n"


def test_ctrl_c_where_python_ignores_errors_is_not_lost(monkeypatch, capsys):
    class Freed:
        def __del__(self):
            raise KeyboardInterrupt

    def running(**_):
        Freed()
        time.sleep(600)

    monkeypatch.setattr(sys, "unraisablehook", sys.unraisablehook)  # it is put back
    monkeypatch.setattr(module.cli, "main", running)
    with pytest.raises(SystemExit) as left:
        module.main(["schema"])
    assert left.value.code == 130
    assert capsys.readouterr().err == "error: stopped by Ctrl-C; nothing was written\n"


def test_a_long_value_leaves_room_for_the_remedy(model):
    done = CliRunner().invoke(cli, ["pack", model, "-o", f"{'x/' * 1500}out.onnx"])
    assert len(done.output) < 2100
    assert done.output.startswith("error: no folder 'x/x/x") and done.output.endswith("(make it)\n")


def test_a_terminal_of_few_characters_shows_the_others_by_number(model):
    odd = onnx.load(model)
    odd.graph.initializer.append(numpy_helper.from_array(np.ones((8, 64), np.float32), "ä"))
    onnx.save(packed.pack(odd), "p.onnx")
    env = {**os.environ, "PYTHONIOENCODING": "ascii"}
    program = "from mlflow_compress.cli.main import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", program, "inspect", "p.onnx"],
        capture_output=True, text=True, check=False, env=env,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert r"\xe4" in done.stdout


def test_a_level_of_the_log_that_is_none_is_said(model, monkeypatch):
    monkeypatch.setenv("MLFLOW_LOGGING_LEVEL", "loud")
    done = CliRunner().invoke(cli, ["verify", model])
    assert done.exit_code == 2 and "MLFLOW_LOGGING_LEVEL must be one of " in done.output
    assert done.output.endswith("got 'loud'\n")
