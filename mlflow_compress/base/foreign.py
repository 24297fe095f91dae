"""Code that is not ours: what it does wrong becomes one line that says whose it is."""

import re
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mlflow_compress.errors import CompressError, DataError, named

__all__ = ["foreign", "no_exit"]

_NOT_THEIRS = re.compile(rf"site-packages|^{re.escape(str(Path(__file__).parents[1]))}")


@contextmanager
def foreign(what: str, rest: str = "") -> Iterator[None]:
    """Make whatever code that is not ours fails with one line of ours.

    What says by its type what is wrong goes through: a package that is not installed, memory, and
    what the system says of a file or a connection.

    Args:
        what: whose code it is.
        rest: what helps, after the place where it failed.

    Raises:
        DataError: the code failed.
        CompressError: it called ``sys.exit``.
    """
    try:
        with no_exit(what):
            yield
    except (CompressError, ModuleNotFoundError, MemoryError, OSError):
        raise
    except Exception as error:
        frames = traceback.extract_tb(error.__traceback__)[1:]
        theirs = [frame for frame in frames if not _NOT_THEIRS.search(frame.filename)] or frames
        place = f" ({Path(theirs[-1].filename).name}, line {theirs[-1].lineno})" if theirs else ""
        raise DataError(f"{what} failed with {named(error)}{place}{rest}") from error


@contextmanager
def no_exit(what: str) -> Iterator[None]:
    """Make a failure of ``sys.exit`` in code that is not ours; also a decorator.

    Left alone it would end the process with an exit code that stands for something else: 0 for a
    job that did nothing, 6 for one that waits.

    Args:
        what: whose code it is.

    Raises:
        CompressError: the code ended with ``SystemExit``.
    """
    try:
        yield
    except SystemExit as error:
        told = "" if error.code is None else repr(error.code)
        raise CompressError(
            f"{what} called sys.exit({told}): let it return, or raise an error that says why"
        ) from error
