"""Paths as they are written: some begin at home, some are no text."""

import sys
from pathlib import Path

from mlflow_compress.errors import ConfigError, shown

__all__ = ["as_text", "from_home", "no_text"]


def no_text() -> str:
    """Say what is wrong with a name that Python cannot write as text, and what to do."""
    if sys.getfilesystemencoding().lower() != "utf-8":
        return "a name that this locale has no letters for: run with PYTHONUTF8=1"
    return "a name whose bytes are not UTF-8, which cannot be kept in records: rename it"


def as_text(path: Path) -> str:
    """Return a path as it stands in records, which hold UTF-8 alone.

    Raises:
        ConfigError: it holds other bytes, as names on a disk may.
    """
    text = str(path)
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ConfigError(f"{shown(text)}: {no_text()}") from None
    return text


def from_home(path: str) -> Path:
    """Return a path whose ``~`` or ``~user`` is that home folder.

    Raises:
        ConfigError: the system knows no home of that user, as in a container whose user has none.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise ConfigError(
            f"{path}: no such home folder is known here: write the whole path"
        ) from None
