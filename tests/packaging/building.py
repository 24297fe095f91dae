"""Builds packages with the tools of an environment apart, never with what this tree holds."""

import os
import subprocess
from pathlib import Path

from tests.environments import python_with

ROOT = Path(__file__).parents[2]
BUILD = ("setuptools>=77", "wheel")
# what a device needs; the wheel is installed without its other dependencies
DEVICE = ("numpy", "onnx", "onnxruntime")


def clean(**more):
    """An environment without this tree or a forced backend in it."""
    gone = ("PYTHONPATH", "MLFLOW_COMPRESS_BACKEND", "CC")
    return {key: value for key, value in os.environ.items() if key not in gone} | more


def run(*command, cwd=None, **more):
    """Run a command that must succeed."""
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd, env=clean(**more), capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done


def wheel_of(sdist, folder, **environment):
    """Build a wheel as pip does, without a cache that would hand out an earlier one."""
    options = ["--no-deps", "--no-build-isolation", "--no-cache-dir", "--disable-pip-version-check"]
    pip = [python_with(*BUILD), "-m", "pip", "wheel", "-q"]
    run(*pip, *options, "-w", folder, sdist, **environment)
    (found,) = folder.glob("*.whl")
    return found
