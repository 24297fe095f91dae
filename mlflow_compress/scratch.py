"""Temporary folders that do not pile up when jobs are killed.

A job that is killed cannot delete what it downloaded and made; whoever works next on the machine
does it. A folder is in use as long as its lock file is locked, which the system ends with the
process, in whatever container that was: process numbers would not do.
"""

import fcntl
import os
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path

__all__ = ["ScratchFolder"]

_PREFIX = "mlflow-compress-"
_LOCK = ".lock"


class ScratchFolder(tempfile.TemporaryDirectory[str]):
    """A temporary folder; making one deletes those of this user whose processes are gone."""

    def __init__(self) -> None:
        _delete_abandoned(Path(tempfile.gettempdir()))
        super().__init__(prefix=_PREFIX, ignore_cleanup_errors=True)
        # Locked before it has the name that others look for.
        made = Path(self.name, "new")
        self._lock = made.open("x")
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        made.rename(made.with_name(_LOCK))

    def cleanup(self) -> None:
        """Delete the folder."""
        super().cleanup()
        self._lock.close()


def _delete_abandoned(parent: Path) -> None:
    for lock in parent.glob(f"{_PREFIX}*/{_LOCK}"):
        with suppress(OSError):
            if lock.parent.lstat().st_uid != os.geteuid():
                continue
            with lock.open() as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(lock.parent)
