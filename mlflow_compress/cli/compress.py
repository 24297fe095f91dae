"""``mlflow-compress compress``: one ONNX file in, the smallest that keeps its job out."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mlflow_compress.cli.output import FORCE, OUTPUT, check_output
from mlflow_compress.scratch import ScratchFolder

if TYPE_CHECKING:
    from mlflow_compress.smallest import Smallest

__all__ = ["compress"]

_FILE = click.Path(dir_okay=False, path_type=Path)
_FRACTION = click.FloatRange(0, 1)


@click.command()
@click.argument("source", metavar="IN.onnx", type=_FILE)
@OUTPUT
@click.option(
    "--calibration",
    metavar="DATA",
    help="Inputs that techniques may look at (.npz keyed by input name, .csv, .parquet, or "
    "module:function). Without --evaluation every fourth row is held back to check the result.",
)
@click.option("--evaluation", metavar="DATA", help="Rows to check the result on, with labels.")
@click.option("--metric", default="accuracy", show_default=True, help="Or module:function.")
@click.option("--max-drop", type=float, help="Largest drop of the metric [0.005 with labels].")
@click.option(
    "--min-agreement",
    type=_FRACTION,
    help="Least share of rows with the source's top class [0.99 without labels].",
)
@click.option("--max-kl", type=click.FloatRange(0), help="Largest KL divergence, nats.")
@click.option(
    "--profile",
    type=click.Choice(["portable", "compact"]),
    default="portable",
    show_default=True,
    help="portable runs in any onnxruntime; compact is smaller, read by mlflow_compress.packed.",
)
@click.option(
    "--input",
    "inputs",
    multiple=True,
    metavar="NAME=KEY:VALUE,…",
    help="How the model takes an input, where it cannot be told, e.g. h0=axis:1,state_of:hn "
    "(keys: axis, state_of, value, mask, padding; docs/inputs.md).",
)
@click.option(
    "--stream",
    type=click.IntRange(1),
    help="A state begins anew every so many rows [only at the first].",
)
@click.option("--effort", type=click.IntRange(1, 5), default=3, show_default=True,
              help="How much to try: 1 is quickest, 5 smallest.")  # fmt: skip
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Random seed.")
@FORCE
def compress(
    source: Path, output: Path, calibration: str | None, evaluation: str | None,
    inputs: tuple[str, ...], force: bool, **options: Any,
) -> None:  # fmt: skip
    """Make IN.onnx as small as it gets while it still does its job.

    Needs no configuration, server or labels: with labelled rows the metric may drop by
    --max-drop, without labels the result has to agree with IN.onnx on rows that were not used to
    make it. Exits with 3 when nothing but lossless packing passes; that result is then written.
    """
    from mlflow_compress.config import parse_inputs
    from mlflow_compress.measure import load_dataset
    from mlflow_compress.smallest import smallest, write

    specs = parse_inputs(inputs)
    check_output(output, source, force)
    model = _load(source)
    rows = None if evaluation is None else load_dataset(evaluation, inputs=specs)
    limits = _limits(rows is not None and rows.labels is not None, options)
    with ScratchFolder() as folder:
        found = smallest(
            model,
            limits=limits,
            work_dir=Path(folder),
            calibration=None if calibration is None else load_dataset(calibration, inputs=specs),
            evaluation=rows,
            on_trial=_show_trial,
            specs=specs,
            **options,
        )
        write(found.best, output)
    _explain(found, source, output)
    if found.is_lossless:
        sys.exit(3)


def _load(source: Path) -> Any:
    from mlflow_compress.mlflow_plugin import resolve

    return resolve(str(source), ".").model


def _limits(has_labels: bool, options: dict[str, Any]) -> Any:
    """Take the limits out of the options, with the default of what the rows allow."""
    from mlflow_compress.smallest import Limits

    limits = Limits(*(options.pop(key) for key in ("max_drop", "min_agreement", "max_kl")))
    if limits != Limits():
        return limits
    return Limits(max_drop=0.005) if has_labels else Limits(min_agreement=0.99)


def _show_trial(trial: Any, gates: Any) -> None:
    from mlflow_compress.report.tables import format_bytes

    if trial.variant is None:
        click.echo(f"  {trial.recipe.label}: {trial.error}", err=True)
        return
    report = trial.variant.report
    verdict = "; ".join(gate.reason for gate in gates)
    passed = "passes" if all(gate.passed for gate in gates) else "fails"
    size = format_bytes(report.size_bytes)
    click.echo(f"  {trial.recipe.label}: {report.rate:.1f}x, {size}, {passed}: {verdict}", err=True)


def _explain(found: "Smallest", source: Path, output: Path) -> None:
    from mlflow_compress.report.tables import format_bytes, format_drop, format_quality

    report = found.best.variant.report  # type: ignore[union-attr]
    rows = f"{found.rows.rows} rows of {found.rows.name}"
    click.echo(
        f"{output}: {format_bytes(report.size_bytes)}, {report.rate:.1f} times smaller than the "
        f"weights of {source.name}"
    )
    click.echo(f"made by: {found.best.recipe.label}, the smallest of {len(found.trials)} tried")
    drop = f", drop {format_drop(report)} points [95 %]" if report.accuracy else ""
    click.echo(f"checked on {rows}: {format_quality(report)}{drop}")
    for gate in found.gates.get(found.best.key, ()):
        click.echo(f"gate: {gate.reason}")
    missed = found.nearest_miss
    if missed is not None and missed.variant is not None:
        failed = "; ".join(gate.reason for gate in found.gates[missed.key] if not gate.passed)
        size = format_bytes(missed.variant.report.size_bytes)
        click.echo(f"next smaller: {missed.recipe.label}, {size}: {failed}")
    if found.is_lossless:
        click.echo("no lossy recipe passed the gate: this is the lossless result")
