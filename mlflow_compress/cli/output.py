"""The one rule for files that a command writes: nothing is replaced without ``--force``."""

from pathlib import Path
from typing import Any

import click

from mlflow_compress.errors import ConfigError

__all__ = ["FORCE", "OUTPUT", "check_output"]

OUTPUT: Any = click.option(
    "-o",
    "--output",
    required=True,
    type=click.Path(dir_okay=False, path_type=Path),
    help="The file to write.",
)
FORCE: Any = click.option("--force", is_flag=True, help="Replace the output if it exists.")


def check_output(output: Path, source: Path | None, force: bool) -> None:
    """Refuse, before any work, an output that cannot or must not be written.

    ``OUTPUT.data`` counts as output too: models above 2 GB are written to two files.

    Raises:
        ConfigError: naming the file and what to do.
    """
    if not output.parent.is_dir():
        raise ConfigError(f"no folder '{output.parent}' to write {output.name} into (make it)")
    if force:
        return
    for path in (output, output.with_name(f"{output.name}.data")):
        if path.exists() or path.is_symlink():
            given = source is not None and source.exists() and path.exists()
            same = given and source is not None and path.samefile(source)
            what = "is the input" if same else "exists"
            raise ConfigError(f"{path} {what}: give another name, or --force to replace it")
