"""The folder in which trainings that are broken off are kept, without those left behind."""

import contextlib
import os
import re
import time
from pathlib import Path

from mlflow_compress.base.files import own_folder
from mlflow_compress.base.paths import from_home
from mlflow_compress.errors import ConfigError

__all__ = ["checkpoint_folder"]

_DAYS = 14

_CHECKPOINT = re.compile(r"[0-9a-f]{32}\.(pt|run|\d+)|\.[0-9a-f]{32}\.(pt|run)\..{8}")
"""A checkpoint or what says where it goes on, whole or half-written."""


def checkpoint_folder(given: str | None) -> Path:
    """Return the folder for checkpoints, without those that nobody came back for.

    From a folder in which something else lies nothing is deleted.

    Args:
        given: as configured; None for the one in the user's cache.

    Raises:
        ConfigError: there is no such cache, as the user has no home.
    """
    if given:
        folder = Path(given)
    else:
        cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
        folder = from_home(cache) / "mlflow-compress" / "checkpoints"
    try:
        own_folder(folder, "checkpoints", lambda path: bool(_CHECKPOINT.fullmatch(path.name)))
    except (OSError, ConfigError):
        return folder  # where none can be written there is a warning, and the training goes on
    old = time.time() - _DAYS * 86400
    for path in folder.iterdir():
        with contextlib.suppress(OSError):
            if _CHECKPOINT.fullmatch(path.name) and path.lstat().st_mtime < old:
                path.unlink()
    return folder
