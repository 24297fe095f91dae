"""``mlflow-compress retrain``: the job for cron, Airflow and GitHub Actions."""

import contextlib
import json
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mlflow_compress.base.bounds import SECONDS
from mlflow_compress.cli.command import Number, command
from mlflow_compress.cli.output import echo, finite
from mlflow_compress.cli.run import OVERRIDES

if TYPE_CHECKING:
    from mlflow_compress.jobs.retrain import Result

__all__ = ["retrain"]


@command()
@click.argument("config", type=click.Path(path_type=Path))
@OVERRIDES
@click.option(
    "--wait",
    type=Number(0, SECONDS.most),
    default=0.0,
    metavar="SECONDS",
    help="Wait so long for another job on the same registered model [0].",
)
@click.option(
    "--json",
    "as_json",
    is_flag=True,
    help="Print exactly one line of JSON on stdout, whatever comes of it.",
)
def retrain(config: Path, overrides: tuple[str, ...], wait: float, as_json: bool) -> None:
    """Do what `run` does with CONFIG (a compress.yaml), made for schedulers.

    Does nothing when this version of the source was compressed with this configuration before:
    the verdict and the exit code of that job are repeated. Exits with 6 when another job is at
    work on the same registered model.
    """
    from mlflow_compress.cli.progress import progress
    from mlflow_compress.cli.show import show_outcome
    from mlflow_compress.config.compress import load_config
    from mlflow_compress.jobs import retrain as retraining

    checked = None
    try:
        quiet = _stdout_for_us() if as_json else contextlib.nullcontext()
        with _terminated_as_interrupted(), quiet:
            checked = load_config(config, overrides)
            with progress() as watcher:
                result, outcome = retraining.retrain(checked, wait=wait, watcher=watcher)
    except BaseException as error:
        if as_json:
            _print_line(retraining.failed(checked, error))
        raise
    if as_json:
        _print_line(result)
    elif outcome is not None:
        show_outcome(outcome)
    else:
        _show_skipped(result)
    sys.exit(result.exit_code)


def _print_line(result: "Result") -> None:
    echo(json.dumps(finite(result.to_dict()), allow_nan=False))


def _show_skipped(result: "Result") -> None:
    echo(
        f"nothing to do: {result.source} was compressed with this configuration before; "
        f"the verdict for {result.registered_model} was:"
    )
    for target in result.targets:
        echo(f"{target['target']}: {target['outcome']}: {target['reason']}")


@contextlib.contextmanager
def _terminated_as_interrupted() -> Iterator[None]:
    """End on SIGTERM, which schedulers send, as cleanly as on Ctrl-C."""

    def stop(_number: int, _frame: Any) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextlib.contextmanager
def _stdout_for_us() -> Iterator[None]:
    """Send what data functions, techniques and worker processes print to stderr."""
    sys.stdout.flush()
    kept = os.dup(1)
    os.dup2(2, 1)
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)
