"""Files and folders that are ours: nothing of somebody else's is replaced or deleted."""

import json
import os
import stat
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from mlflow_compress.errors import ConfigError

__all__ = ["MANIFEST", "check_replaceable", "own_folder", "replacing"]

MANIFEST = "mlflow-compress.json"
"""Says in a folder what of this project it is for."""

_KINDS = {
    stat.S_IFLNK: "link",
    stat.S_IFDIR: "folder",
    stat.S_IFCHR: "device",
    stat.S_IFBLK: "device",
    stat.S_IFIFO: "FIFO",
    stat.S_IFSOCK: "socket",
}


def check_replaceable(target: Path) -> None:
    """Refuse to write a file where something else than a file is.

    Raises:
        ConfigError: naming what is there.
    """
    try:
        mode = target.lstat().st_mode
    except OSError:
        return  # nothing is there; or it cannot be looked at, and writing says why
    if not stat.S_ISREG(mode):
        kind = _KINDS.get(stat.S_IFMT(mode), "special file")
        raise ConfigError(f"{target} is a {kind}, and only a file is replaced: give another name")


@contextmanager
def replacing(target: Path) -> Iterator[Path]:
    """Give a sibling of ``target`` to write to; it takes its place, synced, when all went well.

    Raises:
        ConfigError: something else than a file is there.
    """
    check_replaceable(target)
    handle, name = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
    os.close(handle)
    path = Path(name)
    try:
        yield path
        with path.open("rb+") as file:
            os.fsync(file.fileno())
        umask = os.umask(0)
        os.umask(umask)
        path.chmod(0o666 & ~umask)
        path.replace(target)
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    if os.name == "posix":
        folder = os.open(target.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def own_folder(folder: Path, purpose: str, is_ours: Callable[[Path], bool]) -> None:
    """Make a folder in which files are deleted later, or see that it is one.

    Args:
        folder: what carries the manifest of this purpose; it is made with it where nothing is, and
            gets it where only our own files are, as before there were manifests.
        purpose: what it is for, in words.
        is_ours: whether something that lies in it could only be ours, by its name.

    Raises:
        ConfigError: it is somebody else's; names what lies there.
        OSError: it cannot be made or read.
    """
    manifest = folder / MANIFEST
    if manifest.is_file():
        try:
            found = json.loads(manifest.read_text(encoding="utf-8"))["purpose"]
        except (ValueError, KeyError, TypeError):
            found = "something else"
        if found != purpose:
            raise ConfigError(
                f"folder {folder} is for {str(found)[:60]}, not for {purpose}: name another folder"
            )
        return
    folder.mkdir(parents=True, exist_ok=True)
    foreign = next((path for path in sorted(folder.iterdir()) if not is_ours(path)), None)
    if foreign is not None:
        raise ConfigError(
            f"folder {folder} is to be for {purpose}, and holds something else ({foreign.name}): "
            "name a folder that is empty or not there yet"
        )
    with replacing(manifest) as path:
        path.write_text(json.dumps({"purpose": purpose}), encoding="utf-8")
