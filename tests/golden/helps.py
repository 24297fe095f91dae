"""The help text of every command, and the one way to renew the file that pins it.

python -m tests.golden.helps
"""

from collections.abc import Iterator
from pathlib import Path

import click
from click.testing import CliRunner

from mlflow_compress.cli.main import cli

FILE = Path(__file__).parent / "helps.txt"

_WIDTH = 100


def helps() -> str:
    """Return the help of every command and subcommand, each under the line that asks for it."""
    texts = []
    for words in (), *_commands(cli, ()):
        args = [*words, "--help"]
        shown = CliRunner().invoke(
            cli, args, prog_name="mlflow-compress", terminal_width=_WIDTH, catch_exceptions=False
        )
        texts.append("\n".join([f"$ mlflow-compress {' '.join(args)}", "", shown.output]))
    return "\n".join(texts)


def _commands(group: click.Group, before: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    context = click.Context(group)
    for name in group.list_commands(context):
        yield (*before, name)
        command = group.get_command(context, name)
        if isinstance(command, click.Group):
            yield from _commands(command, (*before, name))


if __name__ == "__main__":
    FILE.write_text(helps(), encoding="utf-8")
