"""How commands write: files that are replaced only with ``--force``, JSON, and tables."""

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mlflow_compress.base.files import check_replaceable
from mlflow_compress.errors import ConfigError

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

__all__ = [
    "FORCE",
    "OUTPUT",
    "check_output",
    "console",
    "echo",
    "finite",
    "print_json",
    "print_table",
    "printable",
    "table",
]

_WIDTH_WHEN_PIPED = 160
_TEXTS = ("device", "profile", "reason", "variant")
_NUMBERS = ("version", "was", "rate", "accuracy")

OUTPUT: Any = click.option(
    "-o",
    "--output",
    required=True,
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="The file to write.",
)
FORCE: Any = click.option("--force", is_flag=True, help="Replace the output if it exists.")


# What tells a terminal to do something, or shows a text in another order than it is written in.
_UNSEEN = (
    *(code for code in (*range(0x20), *range(0x7F, 0xA0)) if chr(code) not in "\n\t"),
    *(0x200E, 0x200F, *range(0x2028, 0x202F), *range(0x2066, 0x206A), *range(0xD800, 0xE000)),
)
_SEEN = {code: chr(code).encode("unicode_escape").decode() for code in _UNSEEN}


def printable(text: str) -> str:
    """Return a text whose control characters are seen and do nothing; names may hold any."""
    return text.translate(_SEEN)


def echo(text: str = "", err: bool = False) -> None:
    """Print a text as :func:`printable`, on stdout or stderr.

    Raises:
        OSError: it cannot be written there; BrokenPipeError, when nobody reads it any more.
    """
    try:
        click.echo(printable(text), err=err)
    except OSError as error:
        error.filename = "stderr" if err else "stdout"
        raise


def check_output(output: Path, source: Path | None, force: bool) -> None:
    """Refuse, before any work, an output that cannot or must not be written.

    ``OUTPUT.data`` counts as output too: models above 2 GB are written to two files.

    Raises:
        ConfigError: naming the file and what to do.
    """
    check_replaceable(output)
    if not output.parent.is_dir():
        raise ConfigError(f"no folder '{output.parent}' to write {output.name} into (make it)")
    files = (output, output.with_name(f"{output.name}.data"))
    check_replaceable(files[1])
    if force:
        return
    for path in files:
        if path.exists():
            there = source is not None and source.exists()
            what = "is the input" if there and path.samefile(str(source)) else "exists"
            raise ConfigError(f"{path} {what}: give another name, or --force to replace it")


def print_json(document: Any) -> None:
    """Print a document; numbers that JSON has no word for become null."""
    click.echo(json.dumps(finite(document), indent=2, allow_nan=False))


def finite(value: Any) -> Any:
    """Replace numbers that JSON has no word for by None."""
    if isinstance(value, dict):
        return {str(key): finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def table(*columns: str) -> "Table":
    """Return an empty table; numbers stand right and stay whole, long texts are folded."""
    from rich import box
    from rich.table import Table

    class Seen(Table):
        """A table whose cells are printable."""

        def add_row(self, *cells: Any, **options: Any) -> None:
            told = [printable(cell) if isinstance(cell, str) else cell for cell in cells]
            super().add_row(*told, **options)

    made = Seen(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in columns:
        justify: Any = "right" if name in _NUMBERS else "left"
        made.add_column(name, justify=justify, no_wrap=name not in _TEXTS, overflow="fold")
    return made


def console(*, stderr: bool = False, **options: Any) -> "Console":
    """Return what prints: names in brackets are names, and no markup.

    Args:
        stderr: print there.
        options: rich's.
    """
    from rich.console import Console

    class Seen(Console):
        """A console that prints texts as they are seen."""

        def print(self, *objects: Any, **given: Any) -> None:
            told = [printable(one) if isinstance(one, str) else one for one in objects]
            super().print(*told, **given)

    return Seen(stderr=stderr, highlight=False, markup=False, **options)


def print_table(shown: "Table") -> None:
    """Print a table on stdout, wide enough for scripts where there is no terminal."""
    there = console()
    if not there.is_terminal:
        there = console(width=_WIDTH_WHEN_PIPED)
    there.print(shown)
