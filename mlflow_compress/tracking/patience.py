"""Patience with a tracking server that stumbles, and an end to it.

MLflow's errors are told apart by their ``error_code``, so that nothing here imports mlflow.
"""

import re
from collections.abc import Callable
from typing import TypeVar

import tenacity
from google.protobuf.json_format import ParseError

from mlflow_compress.errors import CompressError, UnreachableError

__all__ = ["PATIENCE", "is_lasting", "is_transient", "one_line", "patiently", "without_password"]

Result = TypeVar("Result")

PATIENCE = 60.0
"""Seconds that a call is retried for before the server counts as out of reach."""

_TRANSIENT_CODES = {
    "ABORTED",
    "DEADLINE_EXCEEDED",
    "INTERNAL_ERROR",
    "REQUEST_LIMIT_EXCEEDED",
    "RESOURCE_EXHAUSTED",
    "TEMPORARILY_UNAVAILABLE",
}
# Two writers that insert the same row at once, or a busy database: MLflow reports both as a bad
# request, though a moment later the same call succeeds.
_TRANSIENT_TEXTS = (
    "IntegrityError",  # sqlite and MySQL
    "UniqueViolation",  # PostgreSQL
    "SerializationFailure",
    "database is locked",
    "deadlock detected",
)
_NO_TEXT = "surrogates not allowed"
"""What Python says of bytes of a name that are no text, whatever MLflow makes of it."""

# What sqlite and the system say of the disk and the file: nothing that passes while one waits.
_LASTING_TEXTS = (
    "database or disk is full",
    "disk I/O error",
    "attempt to write a readonly database",
    "unable to open database file",
    "file is not a database",
    "database disk image is malformed",
    "No space left on device",
    "File too large",
    "Too many open files",
    "Disk quota exceeded",
    "Read-only file system",
)
_LOCAL_PROBLEMS = (
    FileExistsError,
    FileNotFoundError,
    PermissionError,
    NotADirectoryError,
    IsADirectoryError,
)


def is_transient(error: BaseException) -> bool:
    """Say whether the same call may succeed a moment later."""
    if _NO_TEXT in str(error) or is_lasting(error):
        return False
    code = getattr(error, "error_code", None)
    if code is not None:
        return code in _TRANSIENT_CODES or any(text in str(error) for text in _TRANSIENT_TEXTS)
    # requests' errors are OSErrors too.
    return isinstance(error, OSError) and not isinstance(error, _LOCAL_PROBLEMS)


def is_lasting(error: BaseException) -> bool:
    """Say whether the disk is full, or cannot be read or written."""
    return any(text in str(error) for text in _LASTING_TEXTS)


def one_line(error: BaseException, limit: int = 300) -> str:
    """Return an error's text on one line, cut to ``limit`` characters."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= limit else text[: limit - 1] + "…"


_DEEPEST = 100


def _cause(error: OSError) -> str:
    """Return what the system said, such as ``Connection refused``; requests wraps it four times."""
    waiting: list[object] = [error]
    for inner in waiting:
        if isinstance(inner, OSError) and inner.strerror:
            return inner.strerror if inner.filename is None else one_line(inner)
        if isinstance(inner, BaseException) and len(waiting) < _DEEPEST:
            waiting += [*inner.args, getattr(inner, "reason", None), inner.__cause__]
    return one_line(error)


def without_password(uri: str) -> str:
    """Return a URI as it may be shown."""
    return re.sub(r"://([^:/@]+):[^@]*@", r"://\1:***@", uri)


def patiently(
    what: str, call: Callable[[], Result], seconds: float = PATIENCE, *, first_wait: float = 0.2
) -> Result:
    """Call until it succeeds, with exponential backoff and full jitter, for a bounded time.

    Args:
        what: what the call does, as in "cannot <what>".
        call: safe to repeat: it looks before it writes, or writes the same again.
        seconds: how long to go on after the first failure.
        first_wait: upper bound of the first pause in seconds; each further one doubles.

    Raises:
        UnreachableError: when it still fails for a passing reason after ``seconds``, or when
            the store cannot be written at all.
        CompressError: when MLflow refuses the call for good.
    """
    retrying = tenacity.Retrying(
        retry=tenacity.retry_if_exception(is_transient),
        wait=tenacity.wait_random_exponential(multiplier=first_wait, max=5),
        stop=tenacity.stop_after_delay(seconds),
        reraise=True,
    )
    try:
        return retrying(call)
    except CompressError:
        raise
    except OSError as error:
        raise UnreachableError(f"cannot {what}: {_cause(error)}") from error
    except ParseError as error:
        text = f"cannot {what}: the answer is not MLflow's: {one_line(error)}"
        raise UnreachableError(text) from error
    except Exception as error:
        if getattr(error, "error_code", None) is None:
            raise
        if is_transient(error):
            text = f"cannot {what}: no success within {seconds:g} s: {one_line(error)}"
            raise UnreachableError(text) from error
        if is_lasting(error):
            raise UnreachableError(f"cannot {what}: {one_line(error)}") from error
        raise CompressError(f"cannot {what}: {one_line(error)}") from error
