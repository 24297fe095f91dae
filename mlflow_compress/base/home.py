"""Paths that begin at home, which is not known for every user."""

from pathlib import Path

from mlflow_compress.errors import ConfigError

__all__ = ["from_home"]


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
