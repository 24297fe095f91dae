"""Temporary folders that do not pile up when jobs are killed.

A job that is killed cannot delete what it downloaded and made; whoever works next on the machine
does it. A folder is in use as long as its lock file is locked, which the system ends with the
process, in whatever container that was: process numbers would not do.
"""

import fcntl
import os
import re
import shutil
import stat
import tempfile
import weakref
from contextlib import suppress
from pathlib import Path

__all__ = ["ScratchFolder"]

_PREFIX = "mlflow-compress-"
_NAME = re.compile(re.escape(_PREFIX) + "[a-z0-9_]{8}")
_LOCK = ".lock"
_MARK = "made by mlflow-compress, which deletes this folder when no process locks this file\n"
"""What the lock file says. A folder without it is somebody's, whatever its name."""


class ScratchFolder(tempfile.TemporaryDirectory[str]):
    """A temporary folder; making one deletes those of this user whose processes are gone.

    Where files cannot be locked, it is a temporary folder like any other, which a killed process
    leaves behind.
    """

    def __init__(self) -> None:
        _delete_abandoned(Path(tempfile.gettempdir()))
        super().__init__(prefix=_PREFIX, ignore_cleanup_errors=True)
        # Called before the base class's own, also where nobody calls cleanup().
        self._empty = weakref.finalize(self, _empty, Path(self.name))
        made = Path(self.name, "new")
        self._lock = made.open("x")
        with suppress(OSError):
            self._lock.write(_MARK)
            self._lock.flush()
            # Locked before it has the name that others look for.
            fcntl.flock(self._lock, fcntl.LOCK_EX)
            made.rename(made.with_name(_LOCK))

    def cleanup(self) -> None:
        """Delete the folder."""
        self._empty()
        # Closed first: NFS keeps a file that is open, and its folder with it.
        self._lock.close()
        super().cleanup()


def _delete_abandoned(parent: Path) -> None:
    for lock in parent.glob(f"{_PREFIX}*/{_LOCK}"):
        with suppress(OSError):
            status = lock.parent.lstat()
            if status.st_uid != os.geteuid() or not _NAME.fullmatch(lock.parent.name):
                continue
            if not stat.S_ISDIR(status.st_mode) or not stat.S_ISREG(lock.lstat().st_mode):
                continue
            with lock.open("r+") as file:  # NFS locks only what is open for writing
                if file.read(len(_MARK) + 1) != _MARK:
                    continue
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                _empty(lock.parent)
            if list(lock.parent.iterdir()) == [lock]:
                shutil.rmtree(lock.parent)


def _empty(folder: Path) -> None:
    """Delete all but the lock file, by which the next one finds what a kill leaves here."""
    with suppress(OSError):
        for path in list(folder.iterdir()):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
            elif path.name != _LOCK:
                with suppress(OSError):
                    path.unlink()
