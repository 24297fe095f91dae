"""``mlflow-compress nas paths``: search a network by gradient descent, for one target."""

import os
from pathlib import Path

import click

from mlflow_compress.cli.run import OVERRIDES

__all__ = ["paths"]


@click.command()
@click.argument("config", metavar="SPACE.yaml", type=click.Path(dir_okay=False, path_type=Path))
@click.option(
    "--target",
    required=True,
    metavar="T",
    help="The target whose latency counts: a shipped profile's name, or a YAML file.",
)
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Random seed.")
@click.option(
    "--checkpoints",
    type=click.Path(file_okay=False, path_type=Path),
    help="Where a search that was broken off goes on from [the user's cache].",
)
@OVERRIDES
def paths(
    config: Path, target: str, seed: int, checkpoints: Path | None, overrides: tuple[str, ...]
) -> None:
    """Search the network of SPACE.yaml that is best on a target, train it and register it.

    Each place of the network has several candidate blocks and learns which to take, by accuracy
    on rows held out and by latency measured on the target (ProxylessNAS). The network found is
    trained from scratch and becomes a version of the registered model, a source for `run`. Run
    again after it was stopped, it goes on after the last whole epoch.
    """
    from mlflow_compress.nas.path_space import block_label
    from mlflow_compress.path_config import load_plan
    from mlflow_compress.path_job import run_paths
    from mlflow_compress.targets import load_target

    plan = load_plan(config, overrides)
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser())
    result = run_paths(
        plan,
        load_target(target),
        seed=seed,
        checkpoints=checkpoints or cache / "mlflow-compress" / "checkpoints",
        tell=lambda text: click.echo(text, err=True),
    )
    spec = result.found.spec
    click.echo(
        f"{result.uri}: {100 * result.accuracy:.2f} %, {result.latency_ms:.3g} ms on {target} "
        f"({result.predicted_ms:.3g} ms by the table), {spec.multiply_adds / 1e6:.3g} M "
        f"multiply-adds"
    )
    for block in spec.blocks:
        shape = f"{block.inputs} to {block.outputs} channels, stride {block.stride}"
        click.echo(f"  {block_label(block)}: {shape}")
