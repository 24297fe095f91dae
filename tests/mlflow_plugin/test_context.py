"""What ``import mlflow`` meets when this plugin is installed."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import mlflow_compress
from mlflow_compress.mlflow_plugin.context import CompressRunContext

ENTRY_POINT = (
    "[mlflow.run_context_provider]\n"
    "mlflow_compress = mlflow_compress.mlflow_plugin.context:CompressRunContext\n"
)


@pytest.fixture
def python(tmp_path):
    """Return a function that runs Python where the plugin's entry point is installed."""
    info = tmp_path / "site" / "mlflow_compress-9.9.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: mlflow-compress\nVersion: 9.9\n")
    (info / "entry_points.txt").write_text(ENTRY_POINT)
    home = str(Path(mlflow_compress.__file__).parents[1])
    path = os.pathsep.join([str(tmp_path / "site"), home])

    def run(*args):
        return subprocess.run(
            [sys.executable, *args],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": path},
            capture_output=True,
            text=True,
            check=False,
        )

    return run


def test_importing_mlflow_warns_of_nothing(python):
    done = python("-W", "error::UserWarning", "-c", "import mlflow")
    assert (done.returncode, done.stderr) == (0, "")


def test_importing_mlflow_loads_little_of_the_plugin(python):
    script = (
        "import mlflow, sys\n"
        "print(sorted(name for name in sys.modules if name.startswith('mlflow_compress')))\n"
        "heavy = ('onnx', 'onnxruntime', 'torch', 'optuna')\n"
        "print([name for name in heavy if name in sys.modules])"
    )
    lines = python("-c", script).stdout.splitlines()
    names = [
        "mlflow_compress",
        "mlflow_compress.base",
        "mlflow_compress.base.about",
        "mlflow_compress.errors",
        "mlflow_compress.mlflow_plugin",
        "mlflow_compress.mlflow_plugin.context",
        "mlflow_compress.tracking",
        "mlflow_compress.tracking.names",
    ]
    assert lines == [str(names), "[]"]


def test_every_run_says_which_plugin_was_there(python):
    script = (
        "import mlflow\n"
        "from mlflow.tracking.context.registry import resolve_tags\n"
        "print(resolve_tags()['compress.plugin_version'])"
    )
    done = python("-c", script)
    assert done.stdout == "9.9\n", done.stderr


def test_mlflow_compress_is_a_command_of_mlflow(python):
    done = python("-m", "mlflow", "compress", "--help")
    assert done.returncode == 0, done.stderr
    assert "mlflow compress" in done.stdout
    assert "run" in done.stdout


def test_a_broken_command_line_does_not_break_mlflows(python):
    script = (
        "import sys; sys.modules['mlflow_compress.cli.main'] = None\n"
        "import mlflow.cli; print('compress' in mlflow.cli.cli.commands)"
    )
    done = python("-c", script)
    assert (done.returncode, done.stdout, done.stderr) == (0, "False\n", "")


def test_the_provider():
    provider = CompressRunContext()
    assert provider.in_context()
    assert list(provider.tags()) == ["compress.plugin_version"]
