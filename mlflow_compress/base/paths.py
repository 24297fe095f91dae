"""Paths as they are written: some begin at home, some are no text."""

from pathlib import Path

from mlflow_compress.errors import ConfigError, shown

__all__ = ["as_text", "from_home"]


def as_text(path: Path) -> str:
    """Return a path as it stands in records, which hold UTF-8 alone.

    Raises:
        ConfigError: it holds other bytes, as names on a disk may.
    """
    text = str(path)
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ConfigError(
            f"{shown(text)}: a name whose bytes are not UTF-8, which cannot be kept in records: "
            "rename it"
        ) from None
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
