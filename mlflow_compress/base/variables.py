"""Environment variables that stand for as long as something is done."""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["put_back", "variable"]

_LOCK = threading.Lock()
_HELD: dict[tuple[str, str], tuple[int, str | None]] = {}
"""How many hold a variable at a value, and what it was before the first."""


@contextmanager
def variable(name: str, value: str) -> Iterator[str | None]:
    """Set a variable, and put back what it was when the last thread leaves.

    All threads see it: for what libraries take from nowhere else.

    Yields:
        What it was before.
    """
    with _LOCK:
        holders, before = _HELD.get((name, value), (0, os.environ.get(name)))
        _HELD[name, value] = holders + 1, before
        os.environ[name] = value
    try:
        yield before
    finally:
        with _LOCK:
            holders, before = _HELD.pop((name, value))
            if holders > 1:
                _HELD[name, value] = holders - 1, before
            else:
                put_back(name, before)


def put_back(name: str, before: str | None) -> None:
    """Give a variable the value it had; None where there was none."""
    os.environ.pop(name, None)
    if before is not None:
        os.environ[name] = before
