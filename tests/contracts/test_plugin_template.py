"""The template of a plugin, installed as a stranger's package is found: by its metadata."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from mlflow_compress.testing import TechniqueContract

ROOT = Path(__file__).parents[2]
TEMPLATE = ROOT / "examples" / "plugin_template"


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """A folder with the package and its entry points, without a network, and an environment."""
    folder = tmp_path_factory.mktemp("plugin") / "template"
    shutil.copytree(TEMPLATE, folder, ignore=shutil.ignore_patterns("*.egg-info", "__pycache__"))
    run([sys.executable, "setup.py", "-q", "egg_info"], folder, os.environ)
    path = os.pathsep.join([str(folder), str(ROOT), os.environ.get("PYTHONPATH", "")])
    return folder, os.environ | {"PYTHONPATH": path.rstrip(os.pathsep)}


def run(command, folder, environment):
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


def test_it_is_found_by_its_entry_point(installed):
    code = "from mlflow_compress.techniques import get, names; print(names(), get('mantissa').name)"
    assert run([sys.executable, "-c", code], *installed).strip().endswith("mantissa")


def test_it_keeps_the_contract(installed):
    folder, environment = installed
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests"]
    cases = sum(name.startswith("test_") for name in dir(TechniqueContract))
    assert f"{cases + 3} passed" in run(command, folder, environment)
