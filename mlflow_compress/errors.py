"""The project's errors: one tree, a leaf per cause, each with the CLI's exit code.

A message is one line that says what was wrong, with the value, and what to do about it.
"""

import difflib
import re
import traceback
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = [
    "BusyError",
    "CompressError",
    "ConfigError",
    "DataError",
    "DataNotFoundError",
    "MissingDependencyError",
    "PackedFormatError",
    "SourceError",
    "SourceNotFoundError",
    "TechniqueError",
    "UnreachableError",
    "UnsaidError",
    "foreign",
    "named",
    "nearest",
    "no_exit",
    "shown",
]

_SHOWN = 120


class CompressError(Exception):
    """Root of every error this project raises on purpose.

    Attributes:
        exit_code: what the command line exits with when this error ends it.
    """

    exit_code = 1


class ConfigError(CompressError):
    """The configuration or a command's arguments are wrong (exit 2)."""

    exit_code = 2


class DataError(CompressError):
    """The data are there, but do not fit: labels, names, shapes, dtypes (exit 2)."""

    exit_code = 2


class UnsaidError(DataError):
    """It cannot be told how a model takes its inputs, and has to be said (exit 2).

    Attributes:
        lines: what to write into the configuration, and the option of ``compress``; the last lines
            of the message, which are to be shown as they are.
    """

    def __init__(self, problem: str, lines: str) -> None:
        """Join what is wrong and the lines to write."""
        super().__init__(f"{problem}\n{lines}")
        self.lines = lines


class SourceError(CompressError):
    """The source is there, but is no model that can be compressed (exit 2)."""

    exit_code = 2


class SourceNotFoundError(CompressError):
    """The source model does not exist (exit 4)."""

    exit_code = 4


class DataNotFoundError(CompressError):
    """A data file or data function does not exist (exit 4)."""

    exit_code = 4


class UnreachableError(CompressError):
    """The tracking server, its store, or a device cannot be reached (exit 5)."""

    exit_code = 5


class BusyError(CompressError):
    """Another job is at work on the same registered model (exit 6)."""

    exit_code = 6


class TechniqueError(CompressError):
    """A technique refuses or fails on a model; the message names the step and the cause."""


class PackedFormatError(CompressError):
    """A packed file is damaged, hostile or of an unknown version; names the tensor."""


class MissingDependencyError(CompressError):
    """An optional library is needed here; the message names the extra to install (exit 2)."""

    exit_code = 2


def named(error: BaseException) -> str:
    """Return an error that is not ours in one line, with its type."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


_NOT_THEIRS = re.compile(rf"site-packages|^{re.escape(str(Path(__file__).parent))}")


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


def nearest(word: str, known: Iterable[str]) -> str | None:
    """Return the known word that a misspelt one most likely means, None when none is near."""
    return next(iter(difflib.get_close_matches(str(word), list(known), n=1)), None)


def shown(value: object) -> str:
    """Return a value for a message: its ``repr``, cut where it would fill the screen."""
    try:
        text = repr(value)
    except ValueError:  # an integer of thousands of digits
        return f"a {type(value).__name__}"
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}… ({len(text):,} characters)"


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
