"""The ``mlflow-compress`` command.

It loads each subcommand when it is used, and turns errors into one line on stderr and a documented
exit code, here and nowhere else.
"""

import errno
import importlib
import io
import logging
import os
import re
import signal
import sys
import threading
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from mlflow_compress.base.modules import not_installed
from mlflow_compress.base.paths import no_text
from mlflow_compress.cli.output import echo
from mlflow_compress.errors import CompressError, ConfigError, UnsaidError, named, shown

__all__ = ["EXIT_CODES", "cli", "main"]

EXIT_CODES = {
    0: "every target promoted or rightly kept",
    1: "anything not named here",
    2: "bad usage or configuration",
    3: "some target has no feasible variant",
    4: "source or data not found",
    5: "tracking server or device out of reach",
    6: "another retrain job is at work on the registered model",
    130: "ended by Ctrl-C; what was finished is kept",
}

_COMMANDS = {
    "compress": (
        "mlflow_compress.cli.compress",
        "compress",
        "Make one .onnx file as small as it gets while it still does its job.",
    ),
    "run": (
        "mlflow_compress.cli.run",
        "run",
        "Search, register and promote as compress.yaml says.",
    ),
    "retrain": (
        "mlflow_compress.cli.retrain",
        "retrain",
        "As run, for schedulers: nothing twice, one job per model, one line of JSON.",
    ),
    "webhook": (
        "mlflow_compress.cli.webhook",
        "webhook",
        "Compress and promote as soon as MLflow tells of a new version.",
    ),
    "promote": (
        "mlflow_compress.cli.promote",
        "promote",
        "Decide for each target and move its alias, without a search.",
    ),
    "status": ("mlflow_compress.cli.status", "status", "Show how each target stands."),
    "history": ("mlflow_compress.cli.status", "history", "Show every decision for a target."),
    "rollback": (
        "mlflow_compress.cli.promote",
        "rollback",
        "Put a target's alias back and quarantine what it was on.",
    ),
    "quarantine": (
        "mlflow_compress.cli.promote",
        "quarantine",
        "Keep a version from being promoted to a target.",
    ),
    "unquarantine": (
        "mlflow_compress.cli.promote",
        "unquarantine",
        "Let a version be promoted to a target again.",
    ),
    "approve": (
        "mlflow_compress.cli.promote",
        "approve",
        "Carry out the promotion that waits for a target.",
    ),
    "reject": (
        "mlflow_compress.cli.promote",
        "reject",
        "Turn down the promotion that waits for a target.",
    ),
    "targets": (
        "mlflow_compress.cli.targets",
        "targets",
        "List and show target profiles, and check one against its device.",
    ),
    "pack": ("mlflow_compress.cli.pack", "pack", "Pack an ONNX file losslessly."),
    "unpack": ("mlflow_compress.cli.pack", "unpack", "Rebuild the model that was packed."),
    "inspect": (
        "mlflow_compress.cli.pack",
        "inspect",
        "Show what a packed file spends on each tensor.",
    ),
    "verify": ("mlflow_compress.cli.pack", "verify", "Compare a packed file's checksums."),
    "nas": (
        "mlflow_compress.cli.nas",
        "nas",
        "Search networks for devices: train a supernet, take each target's subnet.",
    ),
    "report": (
        "mlflow_compress.cli.report",
        "report",
        "Write a search as one HTML page for people without MLflow.",
    ),
    "schema": ("mlflow_compress.cli.run", "schema", "Print the JSON schema of compress.yaml."),
}
"""Command: its module, its name there, and the line that ``--help`` shows without loading it."""


_KEEP_TRIALS = ("run", "retrain", "nas")
_LONGEST = 2000
"""Characters of a message."""

_NOWHERE = "the current folder was deleted: change into another one"
_MLFLOWS = re.compile(r"\bMLFLOW_[A-Z_]+\b")
"""A variable of MLflow's, which tells in words of its own what it may be."""

_FULL = (errno.ENOSPC, errno.EDQUOT)
_NO_TEXT = "surrogates not allowed"
"""What Python says of bytes of a name that are no text, and that it cannot write as text."""

_SOON = 0.02
"""Seconds until a Ctrl-C that was ignored comes again."""

_DEBUG = "MLFLOW_COMPRESS_DEBUG"


class _LazyGroup(click.Group):
    """Imports a command's module only when that command is used."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        module, name, _ = _COMMANDS[cmd_name]
        command: click.Command = getattr(importlib.import_module(module), name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, entry[2]) for name, entry in _COMMANDS.items()])

    def invoke(self, ctx: click.Context) -> Any:
        with _one_line(ctx):
            if _is_nowhere():  # libraries end the process, or wait for ever, when they look for it
                _fail(_NOWHERE, 2)
            return super().invoke(ctx)

    def make_context(self, *args: Any, **options: Any) -> click.Context:
        with _one_line():  # of Ctrl-C in here, click itself says "Aborted!"
            return super().make_context(*args, **options)

    def main(self, *args: Any, **options: Any) -> Any:
        with _one_line():  # what click does itself, such as wrapping its texts, may fail as well
            return super().main(*args, **options)


@contextmanager
def _one_line(ctx: click.Context | None = None) -> Iterator[None]:
    """Say what happens in one line, and leave with its exit code."""
    try:
        yield
    except CompressError as error:
        lines = error.lines if isinstance(error, UnsaidError) else ""
        _fail(str(error).removesuffix(lines), error.exit_code, lines)
    except BrokenPipeError:
        raise  # whoever read the output has gone: click leaves quietly
    except OSError as error:
        if isinstance(error, FileNotFoundError) and _is_nowhere():
            _fail(_NOWHERE, 2)
        name = f"'{error.filename}': " if error.filename else ""
        # asked of the environment: tempfile looks for a place by writing there
        temporary = os.environ.get("TMPDIR") or "/tmp"
        room = f"; make room, also in {temporary}" if error.errno in _FULL else ""
        _fail(f"{name}{error.strerror or named(error)}{room}", 1)
    except KeyboardInterrupt:
        kept = ctx is not None and ctx.invoked_subcommand in _KEEP_TRIALS
        rest = "finished trials are kept and will be reused" if kept else "nothing was written"
        _fail(f"stopped by Ctrl-C; {rest}", 130)
    except MemoryError as error:
        text = f": {' '.join(str(error).split())}" if str(error) else ""
        _fail(f"there is not enough memory{text}; give fewer rows or a smaller model", 1)
    except (click.ClickException, click.exceptions.Exit, click.Abort):
        raise
    except Exception as error:
        if isinstance(error, UnicodeEncodeError) and error.reason == _NO_TEXT:
            _fail(f"{shown(error.object)}: {no_text()}", 2)
        if os.environ.get(_DEBUG):
            raise
        if isinstance(error, ValueError) and _MLFLOWS.search(str(error)):
            _fail(str(error), 2)
        if (line := not_installed(error)) is not None:
            _fail(line, 2)
        _fail(
            f"this should not happen: {named(error)} ({_place(error)}); please report it, with "
            f"what {_DEBUG}=1 prints in place of this line",
            1,
        )


def _is_nowhere() -> bool:
    """Whether the current folder is gone, which the system calls a file that is not there."""
    try:
        os.getcwd()  # noqa: PTH109 - this is about the call
    except FileNotFoundError:
        return True
    return False


def _place(error: BaseException) -> str:
    """Return the innermost line of ours that an error came through."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if "mlflow_compress" in frame.filename]
    frame = (ours or frames)[-1]
    return f"{Path(frame.filename).name}, line {frame.lineno}"


def _fail(message: str, exit_code: int, lines: str = "") -> None:
    """Print one line on stderr, and lines to copy as they are, and leave."""
    told = " ".join(message.split())
    if len(told) > _LONGEST:  # a value of any length may stand in it; the remedy is at the end
        told = f"{told[: _LONGEST // 2]} … {told[-_LONGEST // 2 :]}"
    echo(f"error: {told}", err=True)
    if lines:
        echo(lines, err=True)
    sys.exit(exit_code)


def _epilog() -> str:
    codes = "\n".join(f"  {code:<4} {meaning}" for code, meaning in EXIT_CODES.items())
    return f"\b\nExit codes:\n{codes}"


@click.group(
    cls=_LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog=_epilog(),
)
@click.version_option(package_name="mlflow-compress")
def cli() -> None:
    """Compress MLflow models and promote the best variant to each edge target."""
    # MLflow and alembic tell of every migration and default; a person needs none of it. MLflow
    # sets its own logger up when it is imported, and reads this.
    level = os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "CRITICAL")  # below, it logs tracebacks
    if level and level.upper() not in logging.getLevelNamesMapping():
        levels = ", ".join(logging.getLevelNamesMapping())
        raise ConfigError(f"MLFLOW_LOGGING_LEVEL must be one of {levels}, got {shown(level)}")
    logging.getLogger("alembic").setLevel(logging.ERROR)
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # it would write files, send, and warn


def _not_lost(raised: "sys.UnraisableHookArgs") -> None:
    """Raise a Ctrl-C again that came where Python ignores errors, as while it frees an object."""
    if issubclass(raised.exc_type, KeyboardInterrupt):
        main_thread = threading.main_thread().ident
        threading.Timer(_SOON, signal.pthread_kill, (main_thread, signal.SIGINT)).start()
    else:
        sys.__unraisablehook__(raised)


def main(args: Sequence[str] | None = None) -> None:
    """Run the command line; the console script's entry point."""
    with _one_line():
        sys.unraisablehook = _not_lost
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):  # a terminal may know few characters
                stream.reconfigure(errors="backslashreplace")
        cli.main(args=None if args is None else list(args), prog_name="mlflow-compress")
