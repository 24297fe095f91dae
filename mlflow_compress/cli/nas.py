"""``mlflow-compress nas``: train a supernet, and specialise it for targets without retraining."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mlflow_compress.cli.command import Group
from mlflow_compress.cli.nas_paths import paths
from mlflow_compress.cli.output import echo
from mlflow_compress.cli.run import OVERRIDES
from mlflow_compress.errors import ConfigError

if TYPE_CHECKING:
    from mlflow_compress.jobs.nas.supernet import Specialized

__all__ = ["nas"]

_SPACE: Any = click.argument(
    "space", metavar="SPACE.yaml", type=click.Path(dir_okay=False, path_type=Path)
)


@click.group(cls=Group)
def nas() -> None:
    """Find networks for edge devices: one supernet, a subnet for each target. Needs torch."""


nas.add_command(paths)


@nas.command()
@_SPACE
@OVERRIDES
def train(space: Path, overrides: tuple[str, ...]) -> None:
    """Train the supernet of SPACE.yaml and register it.

    One that was killed goes on from its last epoch when it is started again.
    """
    from mlflow_compress.config.nas import load_nas_config
    from mlflow_compress.jobs.nas import supernet as nas_job

    done = nas_job.train(load_nas_config(space, overrides), tell=_tell)
    echo(
        f"{done.uri}: {done.subnets:,} subnets, held out: largest {100 * done.largest:.2f} %, "
        f"smallest {100 * done.smallest:.2f} %, {done.seconds:.0f} CPU seconds"
    )
    echo(f"next: mlflow-compress nas specialize {space} --supernet {done.uri}")


@nas.command()
@_SPACE
@click.option(
    "--supernet", metavar="URI", help="models:/name/3 [the latest version that SPACE.yaml made]."
)
@click.option(
    "--target", "only", multiple=True, metavar="T", help="Only this target; may be repeated."
)
@click.option(
    "--mode",
    type=click.Choice(["evolution", "shrink"]),
    help="shrink: resolution, kernel, depth, width, one after the other.  [default: evolution, or "
    "shrink with --order]",
)
@click.option(
    "--order", metavar="KINDS", help="Order of the mode shrink, such as kernel,resolution."
)
@OVERRIDES
def specialize(
    space: Path, supernet: str | None, only: tuple[str, ...], mode: str | None, order: str | None,
    overrides: tuple[str, ...],
) -> None:  # fmt: skip
    """Find the best subnet of each target of SPACE.yaml, and promote what its recipes make of it.

    Nothing is trained. Blocks are measured on each target, the finalists too; the subnets then go
    through the same job as every source.
    """
    from mlflow_compress.cli.progress import progress
    from mlflow_compress.cli.show import show_outcome
    from mlflow_compress.config.nas import load_nas_config
    from mlflow_compress.jobs.nas import supernet as nas_job

    if order is not None:
        if mode == "evolution":
            raise ConfigError("--order is of the mode shrink, got --mode evolution: leave one out")
        overrides = (*overrides, f"specialize.order=[{order}]")
        mode = "shrink"
    config = load_nas_config(space, overrides)
    with progress() as watcher:
        done = nas_job.specialize(
            config, supernet=supernet, only=only, mode=mode or "evolution", tell=_tell,
            watcher=watcher,
        )  # fmt: skip
    if done.outcome is not None:
        show_outcome(done.outcome)
    _show(done)
    sys.exit(done.exit_code)


def _show(done: "Specialized") -> None:
    for result in done.results:
        best = result.best
        echo(
            f"{result.target}: subnet {best.subnet}: {100 * best.accuracy:.2f} % held out, "
            f"{best.ms:.3f} ms{'' if result.fits else ', not within the limits'}"
        )


def _tell(text: str) -> None:
    echo(text, err=True)
