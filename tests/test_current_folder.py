"""Modules that lie in the current folder are run by nobody who was not told to."""

import os
import subprocess
import sys

import pytest
from loky import get_reusable_executor

from mlflow_compress.mlflow_plugin.webhook.worker import COMMAND
from mlflow_compress.search.executors import Options, Process, own_modules
from mlflow_compress.targets import transport

PLANTED = (
    *("tarfile", "tempfile", "random", "socket", "pickle", "subprocess", "shutil", "loky", "json"),
    *("mlflow_compress", "numpy", "multiprocessing", "sitecustomize", "usercustomize", "threading"),
)


@pytest.fixture
def ran(tmp_path, monkeypatch):
    """Return what ran of modules that are planted in the current folder."""
    folder = tmp_path / "downloads"
    folder.mkdir()
    for name in PLANTED:
        (folder / f"{name}.py").write_text(f"open({str(tmp_path / name)!r} + '.ran', 'w')\n")
    monkeypatch.chdir(folder)
    monkeypatch.delenv("PYTHONSAFEPATH", raising=False)
    return lambda: sorted(path.stem for path in tmp_path.glob("*.ran"))


def test_a_device_of_this_machine(ran, tmp_path):
    script = tmp_path / "script.py"
    script.write_text("import json, random, sys\nprint(json.dumps(sys.argv[1:]  and {}))\n")
    assert transport.ask(transport.LocalDevice(), script, {}, ["x"], 60) == {}
    assert ran() == []


def test_a_job_of_the_webhook(ran):
    done = subprocess.run([*COMMAND, "no.yaml"], capture_output=True, check=False, timeout=120)
    assert done.returncode == 2, done.stderr
    assert ran() == []


def _seen():
    return sys.path, os.environ.get("PYTHONSAFEPATH")


def test_workers_of_a_search(ran):
    with own_modules():  # workers of another test were started elsewhere
        get_reusable_executor().shutdown(wait=True, kill_workers=True)
    executor = Process(Options(1))
    executor.open()
    try:
        where, safe = executor.submit(_seen).result(timeout=120)
    finally:
        executor.close()
        with own_modules():
            get_reusable_executor().shutdown(wait=True, kill_workers=True)
    assert ran() == []
    # Workers look for modules where this process does, and start programs as it does.
    assert (safe, os.environ.get("PYTHONSAFEPATH")) == (None, None)
    assert set(filter(None, sys.path)) <= set(where)
