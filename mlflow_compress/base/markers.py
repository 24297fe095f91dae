"""Markers say in which run a job goes on that was broken off; each is written whole or not at all.

They are a convenience: a folder that cannot be written costs a warning, not the job.
"""

import json
import logging
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

from mlflow_compress.base.files import replacing
from mlflow_compress.base.json_text import parse_json

__all__ = ["forget", "read_marker", "write_marker"]

_log = logging.getLogger(__name__)

T = TypeVar("T")


def read_marker(path: Path, parse: Callable[[Any], T]) -> T | None:
    """Return what a marker says, None where there is none or it is damaged.

    Args:
        path: the marker.
        parse: makes the result from the marker's JSON; a KeyError, TypeError or ValueError means
            that it is damaged.
    """
    try:
        return parse(parse_json(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        _log.warning("%s is damaged, the job begins anew: %s", path, error)
        return None


def write_marker(path: Path, said: Any) -> None:
    """Write JSON in place of what was there; where that cannot be, warn and go on."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as beside:
            beside.write_text(json.dumps(said), encoding="utf-8")
    except OSError as error:
        _log.warning("a job that is broken off cannot go on: no marker in %s: %s", path, error)


def forget(*paths: Path) -> None:
    """Delete files where they are and can be deleted."""
    for path in paths:
        with suppress(OSError):
            path.unlink(missing_ok=True)
