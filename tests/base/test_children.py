"""Children end with their parents, at their time, and when they say too much."""

import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

import mlflow_compress
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


def test_a_child_is_the_command_with_its_signals_and_name():
    code = "import os, signal, sys; print(os.getppid(), signal.getsignal(13) == signal.SIG_IGN)"
    done = run_bounded([sys.executable, "-c", code], b"", timeout=60, most=1000)
    assert done.out.split() == [str(os.getpid()).encode(), b"True"]  # Python's own doing
    done = run_bounded(["sh", "-c", "trap '' TERM; trap; kill -PIPE $$; echo on"], b"", timeout=60,
                       most=1000)  # fmt: skip
    assert done.code == -signal.SIGPIPE  # ignored, as Python does it, it would go on


def test_a_command_that_is_not_there_says_so(tmp_path):
    with pytest.raises(FileNotFoundError, match="No such file or directory: 'no-such-program'"):
        run_bounded(["no-such-program"], b"", timeout=60, most=100)
    no_program = tmp_path / "text"
    no_program.write_text("no program")
    no_program.chmod(0o755)
    done = run_bounded([str(no_program)], b"", timeout=60, most=1000)
    assert (done.code, done.err) == (1, f"{no_program}: Exec format error\n".encode())


def test_nothing_of_ours_runs_between_fork_and_exec():
    for path in Path(mlflow_compress.__path__[0]).rglob("*.py"):
        assert "preexec_fn" not in path.read_text(encoding="utf-8"), path


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
