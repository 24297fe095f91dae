"""Whose open run it is: what a job that died leaves behind can be told from live work."""

import os
import platform
import time

__all__ = ["OWNER", "is_abandoned", "owner"]

OWNER = "compress.owner"


def owner() -> str:
    """Return host and process of this job."""
    return f"{platform.node()}:{os.getpid()}"


def is_abandoned(who: str, start_ms: int, max_age: float) -> bool:
    """Say whether the job that left a run open is certainly or very likely gone.

    Args:
        who: what :func:`owner` returned there.
        start_ms: when the run began, milliseconds since 1970.
        max_age: seconds after which a job on another host counts as gone.
    """
    host, _, process = who.rpartition(":")
    if host == platform.node() and process.isdigit() and not _alive(int(process)):
        return True
    return time.time() * 1000 - start_ms > max_age * 1000


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
