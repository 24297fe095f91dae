import errno
import fcntl
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path

import pytest

from mlflow_compress.base.scratch import ScratchFolder

MAKES_ONE = """
import time
from mlflow_compress.base.scratch import ScratchFolder
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
    for name in ("mlflow-compress-models", "mlflow-compress-locked", "mlflow-compress-ab12cd_4"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "mine").touch()
        if name != "mlflow-compress-models":
            (tmp_path / name / ".lock").touch()
    made = ScratchFolder()
    shutil.copy(Path(made.name) / ".lock", tmp_path / "mlflow-compress-locked" / ".lock")
    (tmp_path / "mlflow-compress-link4567").symlink_to(tmp_path / "mlflow-compress-locked")
    with ScratchFolder():
        assert len(list(tmp_path.glob("*/mine"))) == 4
    made.cleanup()


@pytest.mark.parametrize("refusal", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def test_where_nothing_can_be_locked_a_folder_is_made_and_stays(monkeypatch, refusal):
    def refuse(*_):
        raise OSError(refusal, os.strerror(refusal))

    with monkeypatch.context() as patched:
        patched.setattr(fcntl, "flock", refuse)
        made = ScratchFolder()
    Path(made.name, "weights").touch()
    with ScratchFolder():
        assert Path(made.name, "weights").exists()
    made.cleanup()
    assert not Path(made.name).exists()


def fill(folder):
    """Put files before and after the lock, in whatever order the file system lists them."""
    for number in range(50):
        if number == 25:
            (folder / ".lock").rename(folder / "lock")
            (folder / "lock").rename(folder / ".lock")
        (folder / f"w{number}").touch()
    (folder / "more").mkdir()
    (folder / "more" / "w").touch()


@pytest.fixture
def deleted(monkeypatch):
    """The names of the files that are deleted, in order."""
    names = []
    real = os.unlink

    def unlink(path, **more):
        names.append(Path(path).name)
        return real(path, **more)

    monkeypatch.setattr(os, "unlink", unlink)
    return names


@pytest.mark.parametrize("leave", [ScratchFolder.cleanup, lambda made: None])
def test_the_lock_goes_last_with_its_folder(deleted, leave):
    made = ScratchFolder()
    folder = Path(made.name)
    fill(folder)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        leave(made)
        del made
    assert not folder.exists()
    assert (len(deleted), deleted[-1]) == (52, ".lock")


def test_the_lock_goes_last_with_what_was_left(other, deleted):
    process, left = other
    fill(left)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    made = ScratchFolder()
    assert not left.exists()
    assert (len(deleted), deleted[-1]) == (53, ".lock")
    made.cleanup()


def test_what_cannot_be_deleted_keeps_its_lock_for_the_next(other, monkeypatch):
    process, left = other
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    real = os.unlink

    def refuse(path, **more):
        if Path(path).name == "weights":
            raise PermissionError(errno.EPERM, "Operation not permitted")
        return real(path, **more)

    with monkeypatch.context() as patched:
        patched.setattr(os, "unlink", refuse)
        with ScratchFolder():
            assert (left / ".lock").exists()
    with ScratchFolder():
        assert not left.exists()


def test_files_are_locked_as_nfs_wants_it(other, monkeypatch):
    real = fcntl.flock

    def flock(file, operation):
        if fcntl.fcntl(file, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
            raise OSError(errno.EBADF, "Bad file descriptor")
        return real(file, operation)

    monkeypatch.setattr(fcntl, "flock", flock)
    process, left = other
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    with ScratchFolder():
        assert not left.exists()
