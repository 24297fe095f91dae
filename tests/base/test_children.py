"""Children end with their parents, at their time, and when they say too much."""

import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from mlflow_compress.base.children import TooMuchError, run_bounded
from mlflow_compress.errors import UnreachableError
from mlflow_compress.targets.transport import CommandDevice, LocalDevice, ask, device_for

SLOW = """
import os, pathlib, subprocess, sys, time
child = subprocess.Popen(["sleep", "60"])
pathlib.Path(sys.argv[1]).write_text(f"{os.getpid()} {child.pid} {os.getcwd()}")
time.sleep(60)
"""


def is_alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def until(condition, seconds=20):
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.05)
    return condition()


def test_what_is_written_and_read_is_whole():
    data = bytes(range(256)) * 4000
    done = run_bounded(["cat"], data, timeout=60, most=1 << 21)
    assert (done.code, done.out, done.err) == (0, data, b"")
    done = run_bounded(["sh", "-c", "echo no >&2; exit 3"], data, timeout=60, most=100)
    assert (done.code, done.out, done.err) == (3, b"", b"no\n")


@pytest.mark.parametrize("command", ["yes", "yes >&2"])
def test_a_child_that_writes_without_end_is_ended(command):
    with pytest.raises(TooMuchError):
        run_bounded(["sh", "-c", command], b"", timeout=60, most=1 << 20)


def test_a_device_that_writes_without_end_is_one_line(monkeypatch):
    monkeypatch.setattr("mlflow_compress.targets.transport._MOST_ANSWER", 1 << 20)
    device = CommandDevice("cmd:loud", ("sh", "-c", "yes"))
    with pytest.raises(UnreachableError, match="device cmd:loud: it wrote more than 1 MiB"):
        ask(device, Path(__file__), {}, [], 60)


@pytest.mark.parametrize("device", [LocalDevice(), device_for("cmd:env")])
def test_a_device_that_is_too_slow_leaves_nothing(device, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    script, said = tmp_path / "slow.py", tmp_path / "said"
    script.write_text(SLOW)
    with pytest.raises(UnreachableError, match="no answer within 3 s"):
        ask(device, script, {}, [str(said)], 3, attempts=1)
    *pids, folder = said.read_text().split()
    assert until(lambda: not any(map(is_alive, pids)))
    assert until(lambda: not Path(folder).exists())


@pytest.mark.skipif(sys.platform != "linux", reason="no PR_SET_PDEATHSIG")
def test_a_device_ends_with_a_job_that_is_killed(tmp_path):
    script, said = tmp_path / "slow.py", tmp_path / "said"
    script.write_text(SLOW)
    code = (
        "import sys; from pathlib import Path\n"
        "from mlflow_compress.targets.transport import LocalDevice, ask\n"
        "ask(LocalDevice(), Path(sys.argv[1]), {}, [sys.argv[2]], 100)\n"
    )
    job = subprocess.Popen([sys.executable, "-c", code, str(script), str(said)])
    try:
        assert until(lambda: said.exists() and said.read_text().count(" ") == 2)
    finally:
        os.kill(job.pid, signal.SIGKILL)
        job.wait()
    *pids, folder = said.read_text().split()
    assert until(lambda: not any(map(is_alive, pids)))
    assert until(lambda: not Path(folder).exists())
