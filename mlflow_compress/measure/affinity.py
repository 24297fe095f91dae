"""Keeps what is measured on as many processor cores as it has threads."""

import contextlib
import os
from collections.abc import Iterator

__all__ = ["pinned", "usable_cores"]


@contextlib.contextmanager
def pinned(threads: int) -> Iterator[None]:
    """Keep the calling thread on so many cores of those it may use, and restore them at the end.

    A thread's cores are inherited by those it starts. onnxruntime starts a session's threads when
    the session is opened: what is to be timed has to be opened in here too.

    Nothing happens where the system has no affinity (macOS, Windows) or forbids to change it.

    Args:
        threads: how many cores; the first of those that the calling thread may use are taken, as
            the measuring script does.
    """
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    allowed = os.sched_getaffinity(0)
    with contextlib.suppress(OSError):
        os.sched_setaffinity(0, sorted(allowed)[:threads])
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            os.sched_setaffinity(0, allowed)


def usable_cores() -> int | None:
    """Return how many cores this process may use, None when unknown; a container has its own."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count()
