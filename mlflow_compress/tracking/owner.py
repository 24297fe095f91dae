"""Whose open run it is: what a job that died leaves behind can be told from live work."""

import os
import platform
import time
from functools import cache
from hashlib import sha256
from pathlib import Path

from mlflow_compress.tracking.names import read_number

__all__ = ["is_abandoned", "owner"]


def owner() -> str:
    """Return host and process of this job."""
    return f"{_host()}:{os.getpid()}"


@cache
def _host() -> str:
    """Return this host's name and what its process numbers belong to.

    Containers may share a name; each of them counts its own processes, and again after a start.
    """
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        space = os.stat("/proc/self/ns/pid").st_ino  # noqa: PTH116 - a link to no path
    except OSError:
        return platform.node()
    return f"{platform.node()}#{sha256(f'{boot} {space}'.encode()).hexdigest()[:8]}"


def is_abandoned(who: str, start_ms: int, max_age: float) -> bool:
    """Say whether the job that left a run open is certainly or very likely gone.

    Args:
        who: what :func:`owner` returned there.
        start_ms: when the run began, milliseconds since 1970.
        max_age: seconds after which a job on another host counts as gone.
    """
    host, _, process = who.rpartition(":")
    number = read_number(process)
    if host == _host() and number is not None and not _alive(number):
        return True
    return time.time() * 1000 - start_ms > max_age * 1000


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True
