"""Answers of a tracking server: read as far as they may go, and no longer than they may take.

``requests`` reads a body into memory to its end, and its timeout is for each packet: a server, or
what stands in front of one, that sends without end would take all memory, and one that sends a
byte now and then would hold a job for ever.
"""

import time
from typing import Any

import requests
import urllib3

__all__ = ["bound_answers"]

_MOST_BYTES = 256 << 20
"""Bytes of an answer; ten thousand versions with all their tags are about 100 MB."""

_SECONDS, _RATE = 30.0, 1 << 16
"""After so many seconds, a body must have come with so many bytes a second on the whole."""

_CHUNK = 1 << 16


def bound_answers() -> None:
    """Bound what MLflow's client reads in this process; files, which it streams, are as they were.

    It makes its sessions itself, where nothing else of ours reaches them. A later MLflow that makes
    them elsewhere is not bounded.
    """
    from mlflow.utils import request_utils

    made = getattr(request_utils, "_get_request_session", None)
    if made is None or getattr(made, "bounds", False):
        return

    def bounded(*given: Any, **named: Any) -> requests.Session:
        session: requests.Session = made(*given, **named)
        if _read not in session.hooks["response"]:
            session.hooks["response"].append(_read)
        return session

    bounded.bounds = True  # type: ignore[attr-defined]
    request_utils._get_request_session = bounded


def _read(answer: requests.Response, **options: Any) -> None:
    """Read a body before ``requests`` does, which then finds it read.

    Raises:
        requests.RequestException: it is too large, or takes too long.
    """
    if options.get("stream") or not hasattr(answer.raw, "read1"):
        return
    body, begun = bytearray(), time.monotonic()
    while part := _packet(answer):
        body += part
        problem = None
        if len(body) > _MOST_BYTES:
            problem = f"is longer than {_MOST_BYTES >> 20} MiB"
        elif time.monotonic() - begun > max(_SECONDS, len(body) / _RATE):
            problem = f"comes too slowly, {len(body):,} bytes in {time.monotonic() - begun:.0f} s"
        if problem is not None:
            answer.close()
            raise requests.RequestException(f"the answer {problem}")
    answer._content = bytes(body)
    answer._content_consumed = True


def _packet(answer: requests.Response) -> bytes:
    """Return what comes next, so that the clock can be looked at before the rest comes.

    Raises:
        requests.RequestException: the line was cut, or what came cannot be decompressed.
    """
    try:
        found: bytes = answer.raw.read1(_CHUNK, decode_content=True)
    except urllib3.exceptions.HTTPError as error:
        raise requests.ConnectionError(error) from error
    return found
