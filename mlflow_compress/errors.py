"""The project's errors: one tree, a leaf per cause, each with the CLI's exit code.

A message is one line that says what was wrong, with the value, and what to do about it.
"""

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
    "named",
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


def shown(value: object) -> str:
    """Return a value for a message: its ``repr``, cut where it would fill the screen."""
    try:
        text = repr(value)
    except ValueError:  # an integer of thousands of digits
        return f"a {type(value).__name__}"
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}… ({len(text):,} characters)"
