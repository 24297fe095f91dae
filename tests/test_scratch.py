import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from mlflow_compress.scratch import ScratchFolder

MAKES_ONE = """
import time
from mlflow_compress.scratch import ScratchFolder
made = ScratchFolder()
open(made.name + "/weights", "w").close()
print(made.name, flush=True)
time.sleep(600)
"""


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))


@pytest.fixture
def other():
    process = subprocess.Popen([sys.executable, "-c", MAKES_ONE], stdout=subprocess.PIPE, text=True)
    yield process, Path(process.stdout.readline().strip())
    process.kill()
    process.wait()
    process.stdout.close()


def test_a_folder_goes_with_its_block():
    with ScratchFolder() as name:
        Path(name, "model.onnx").touch()
    assert not Path(name).exists()


def test_what_a_killed_process_left_is_deleted_by_the_next(other):
    process, left = other
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert (left / "weights").exists()
    with ScratchFolder():
        assert not left.exists()


def test_what_a_living_process_works_in_stays(other):
    _, used = other
    with ScratchFolder() as name, ScratchFolder():
        assert (used / "weights").exists()
        assert Path(name).exists()


def test_folders_of_that_name_by_others_stay(tmp_path):
    foreign = tmp_path / "mlflow-compress-models"
    foreign.mkdir()
    (foreign / "mine").touch()
    with ScratchFolder():
        assert (foreign / "mine").exists()
