"""The package as a whole: its public names, and what importing it costs."""

import json
import subprocess
import sys

import pytest

import mlflow_compress

HEAVY = ["mlflow", "onnx", "onnxruntime", "torch", "numpy", "optuna", "click", "pydantic"]


def loaded_after(statement):
    """Run a statement in a fresh interpreter and return which heavy modules it loaded."""
    code = f"import sys, json; {statement}; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return sorted(set(HEAVY) & set(json.loads(done.stdout.splitlines()[-1])))


def test_public_names():
    assert mlflow_compress.__all__ == ["Outcome", "compress", "metric"]
    for name in mlflow_compress.__all__:
        assert getattr(mlflow_compress, name).__doc__


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'squash'"):
        mlflow_compress.squash  # noqa: B018


def test_the_package_imports_nothing_heavy():
    assert loaded_after("import mlflow_compress, mlflow_compress.records") == []


def test_help_imports_click_only():
    statement = (
        "import contextlib; from mlflow_compress.cli.main import main\n"
        "with contextlib.suppress(SystemExit): main(['--help'])\n"
        "import json"
    )
    code = f"import sys\n{statement}\nprint(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "Commands:" in done.stdout
    assert set(HEAVY) & set(json.loads(done.stdout.splitlines()[-1])) == {"click"}


@pytest.mark.parametrize("room", ["packed", "techniques", "measure", "search"])
def test_rooms_below_mlflow_do_not_load_it(room):
    assert not {"mlflow", "torch", "click"} & set(loaded_after(f"import mlflow_compress.{room}"))
