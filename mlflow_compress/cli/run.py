"""``mlflow-compress run`` and ``schema``."""

import json
import sys
from pathlib import Path
from typing import Any

import click

from mlflow_compress.cli.command import command
from mlflow_compress.cli.output import echo

__all__ = ["OVERRIDES", "run", "schema"]

OVERRIDES: Any = click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="KEY=VALUE",
    help="Override a key of the config, such as --set search.trials=20; may be repeated.",
)


@command()
@click.argument("config", type=click.Path(dir_okay=False, path_type=Path))
@OVERRIDES
@click.option(
    "--free-order",
    is_flag=True,
    help="Learn from trials as they come: faster on several workers, not the same twice.",
)
def run(config: Path, overrides: tuple[str, ...], free_order: bool) -> None:
    """Search, register and promote as CONFIG (a compress.yaml) says.

    Reads the source model, tries recipes, logs each as an MLflow run, registers the best
    variants, and moves the alias of each target to the best version for it. Running it again
    reuses what is finished.
    """
    from mlflow_compress.config.compress import load_config
    from mlflow_compress.search import start_early

    if free_order:
        overrides = (*overrides, "search.free_order=true")
    checked = load_config(config, overrides)
    search = checked.search
    start_early(search.executor, search.workers, search.window)  # MLflow takes seconds to import

    from mlflow_compress.cli.progress import progress
    from mlflow_compress.cli.show import show_outcome
    from mlflow_compress.jobs import compress as job

    with progress() as watcher:
        outcome = job.run(checked, watcher=watcher)
    show_outcome(outcome)
    sys.exit(outcome.exit_code)


@command()
def schema() -> None:
    """Print the JSON schema of compress.yaml, for editors."""
    from mlflow_compress.config.compress import config_schema

    echo(json.dumps(config_schema(), indent=2))
