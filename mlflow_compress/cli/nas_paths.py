"""``mlflow-compress nas paths``: search a network by gradient descent, for one target."""

from pathlib import Path

import click

from mlflow_compress.cli.command import command
from mlflow_compress.cli.output import echo
from mlflow_compress.cli.run import OVERRIDES

__all__ = ["paths"]


@command()
@click.argument("space", metavar="SPACE.yaml", type=click.Path(dir_okay=False, path_type=Path))
@click.option(
    "--target",
    required=True,
    metavar="T",
    help="Whose latency counts: a target of SPACE.yaml, a shipped profile, or a YAML file.",
)
@OVERRIDES
def paths(space: Path, target: str, overrides: tuple[str, ...]) -> None:
    """Search the network of SPACE.yaml that is best on a target, train it and register it.

    Each place of the network has several candidate blocks and learns which to take, by accuracy
    on rows held out and by latency measured on the target (ProxylessNAS). The network found is
    trained from scratch and becomes a version of the registered model: a source for `run`. A
    search that was killed goes on after its last whole epoch when it is started again.
    """
    from mlflow_compress.config.paths import find_target, load_path_config
    from mlflow_compress.jobs.nas.paths import run_paths
    from mlflow_compress.nas import block_label

    config = load_path_config(space, overrides)
    profile = find_target(config, target)
    result = run_paths(config, profile, tell=lambda text: echo(text, err=True))
    spec = result.found.spec
    echo(
        f"{result.uri}: {100 * result.accuracy:.2f} %, {result.latency_ms:.3g} ms on "
        f"{profile.name} ({result.predicted_ms:.3g} ms by the table), "
        f"{spec.multiply_adds / 1e6:.3g} M multiply-adds"
    )
    for block in spec.blocks:
        shape = f"{block.inputs} to {block.outputs} channels, stride {block.stride}"
        echo(f"  {block_label(block)}: {shape}")
