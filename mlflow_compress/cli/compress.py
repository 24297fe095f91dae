"""``mlflow-compress compress``: one ONNX file in, the smallest that keeps its job out."""

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from mlflow_compress.base.bounds import COUNT, SEED
from mlflow_compress.base.scratch import ScratchFolder
from mlflow_compress.cli.command import Number, command, whole
from mlflow_compress.cli.output import FORCE, OUTPUT, check_output, echo
from mlflow_compress.records import Gate, Output, Report, Trial

if TYPE_CHECKING:
    from mlflow_compress.jobs.smallest import Smallest

__all__ = ["compress"]

_FILE = click.Path(dir_okay=False, path_type=Path)
_KEPT_FOR_ONE = 4
"""Calibration rows for each row that confirms."""

_FRACTION = Number(0, 1)


@command()
@click.argument("source", metavar="IN.onnx", type=_FILE)
@OUTPUT
@click.option(
    "--calibration",
    metavar="DATA",
    help="Inputs that techniques may look at (.npz keyed by input name, .csv, .parquet, or "
    "module:function). Without --evaluation half of the rows are kept aside to check the result.",
)
@click.option("--evaluation", metavar="DATA", help="Rows to check the result on, with labels.")
@click.option("--metric", default="accuracy", show_default=True, help="Or module:function.")
@click.option(
    "--metric-output",
    metavar="NAME",
    help="Output that the metric reads [the first that suits it].",
)
@click.option(
    "--labels",
    type=click.Choice(["data", "source"]),
    default="data",
    show_default=True,
    help="source takes IN.onnx's own outputs as labels.",
)
@click.option("--max-drop", type=float, help="Largest drop of the metric [0.005 with labels].")
@click.option(
    "--min-agreement",
    type=_FRACTION,
    help="Least share of rows with the source's class, of outputs that are classes.",
)
@click.option("--max-kl", type=Number(0), help="Largest KL divergence, nats.")
@click.option(
    "--limit",
    "limits",
    metavar="[OUTPUT.]MEASURE=BOUND",
    multiple=True,
    help="Limit another measure, such as error=0.001 or boxes.recall=0.98 (docs/judging.md).",
)
@click.option(
    "--kind",
    "kinds",
    metavar="OUTPUT=KIND[,key:value…]",
    multiple=True,
    help="What an output is, where that is not told rightly: classes, values, embedding, boxes, "
    "sequence, state, ignore.",
)
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
    type=whole(COUNT, 1),
    help="A state begins anew every so many rows [only at the first].",
)
@click.option("--effort", type=click.IntRange(1, 5), default=3, show_default=True,
              help="How much to try: 1 is quickest, 5 smallest.")  # fmt: skip
@click.option("--seed", type=whole(SEED), default=0, show_default=True, help="Random seed.")
@FORCE
def compress(  # noqa: PLR0913 - options of a command
    source: Path, output: Path, calibration: str | None, evaluation: str | None,
    limits: tuple[str, ...], kinds: tuple[str, ...], metric: str, metric_output: str | None,
    labels: Literal["data", "source"], inputs: tuple[str, ...], force: bool, **options: Any,
) -> None:  # fmt: skip
    """Make IN.onnx as small as it gets while it still does its job.

    Needs no configuration, server or labels. Every output is judged by what it is, against
    IN.onnx, on rows that had no part in making or choosing the result; with labelled rows the
    metric may drop by --max-drop. Exits with 3 when nothing but lossless packing passes; that
    result is then written.
    """
    from mlflow_compress.config.compress import parse_inputs
    from mlflow_compress.jobs.smallest import smallest, write
    from mlflow_compress.measure import MetricSpec, load_dataset

    specs = parse_inputs(inputs)
    check_output(output, source, force)
    rows = None if evaluation is None else load_dataset(evaluation, inputs=specs)
    has_labels = labels == "source" or (rows is not None and rows.has_labels)
    scored_by = MetricSpec(metric, metric_output, labels=labels)
    wanted = _limits(has_labels, limits, options)
    with ScratchFolder() as folder:
        found = smallest(
            _load(source, folder),
            limits=wanted,
            work_dir=Path(folder),
            calibration=None if calibration is None else load_dataset(calibration, inputs=specs),
            evaluation=rows,
            outputs=_kinds(kinds),
            metric=scored_by,
            watcher=_lines(),
            specs=specs,
            **options,
        )
        write(found.best, output)
    _explain(found, source, output)
    if found.is_lossless:
        sys.exit(3)


def _load(source: Path, folder: str) -> Any:
    """Return the model; what is downloaded for it lies in ``folder``."""
    from mlflow_compress.mlflow_plugin import resolve

    return resolve(str(source), folder).model


def _kinds(texts: Sequence[str]) -> dict[str, Any]:
    """Return what is said of outputs, by their names."""
    from mlflow_compress.base.once import put_once
    from mlflow_compress.measure.outputs import parse_text

    found: dict[str, Any] = {}
    for text in texts:
        name, said = parse_text(text)
        put_once(found, name, said, f"--kind {text}")
    return found


def _limits(has_labels: bool, more: Sequence[str], options: dict[str, Any]) -> Any:
    """Take the limits out of the options, with the default of what the rows allow."""
    from mlflow_compress.targets import target_limits

    said = {key: options.pop(key) for key in ("max_drop", "min_agreement", "max_kl")}
    said = {key: value for key, value in said.items() if value is not None}
    if has_labels and not said and not more:
        said["max_drop"] = 0.005
    return target_limits(said, more)


def _lines() -> Any:
    """Return a watcher that writes a line for each thing it hears."""
    from mlflow_compress.jobs.smallest import Confirmed, Watcher
    from mlflow_compress.report.tables import format_bytes

    class Lines(Watcher):
        def outputs(self, outputs: Sequence[Output]) -> None:
            for output in outputs:
                why = f", as {output.reason}" if output.reason else ""
                echo(f"output `{output.name}`: {output.label}{why}", err=True)

        def trial(self, trial: Trial, gates: tuple[Gate, ...]) -> None:
            if trial.variant is None:
                echo(f"  {trial.recipe.label}: {trial.error}", err=True)
                return
            report = trial.variant.report
            passed = "passes" if all(gate.passed for gate in gates) else "fails"
            size = format_bytes(report.size_bytes)
            text = f"{report.rate:.1f}x, {size}, {passed}: {_told(gates)}"
            echo(f"  {trial.recipe.label}: {text}", err=True)

        def confirmed(self, trial: Trial, confirmed: Confirmed) -> None:
            verdict = "confirmed" if confirmed.passed else "not confirmed"
            text = f"{trial.recipe.label}: {verdict} on other rows: {_told(confirmed.gates)}"
            echo(text, err=True)

    return Lines()


def _told(gates: Sequence[Gate]) -> str:
    """Return what failed, or everything when nothing did."""
    return "; ".join(gate.reason for gate in [g for g in gates if not g.passed] or gates)


def _explain(found: "Smallest", source: Path, output: Path) -> None:
    from mlflow_compress.report.tables import format_bytes

    report = found.best.variant.report  # type: ignore[union-attr]
    echo(
        f"{output}: {format_bytes(report.size_bytes)}, {report.rate:.1f} times smaller than the "
        f"weights of {source.name}"
    )
    echo(f"made by: {found.best.recipe.label}, the smallest of {len(found.trials)} tried")
    echo(f"confirmed on {found.rows.rows} rows that had no part in making or choosing it:")
    for line in _numbers(found.confirmed[found.best.key].report):
        echo(f"  {line}")
    for gate in found.gates_of(found.best):
        echo(f"gate: {gate.reason}")
    missed = found.nearest_miss
    if missed is not None and missed.variant is not None:
        size = format_bytes(missed.variant.report.size_bytes)
        echo(f"next smaller: {missed.recipe.label}, {size}: {_told(found.gates_of(missed))}")
    waiting = found.waiting
    if waiting is not None and waiting[0].variant is not None:
        trial, more = waiting
        rate = trial.variant.report.rate  # type: ignore[union-attr]
        echo(
            f"more rows: about {_KEPT_FOR_ONE * more:,} more calibration rows, or {2 * more:,} "
            f"more for --evaluation, may confirm {rate:.1f}x ({trial.recipe.label})"
        )
    if found.is_lossless:
        echo("no lossy recipe passed the gate: this is the lossless result")


def _numbers(report: Report) -> Iterator[str]:
    """Yield each output's numbers, with their intervals, and the metric's."""
    from mlflow_compress.report.tables import format_drop, format_quality, output_cells

    if report.accuracy is not None:
        drop = f"drop {format_drop(report, with_unit=True)} [95 %]"
        yield f"{report.accuracy.metric}: {format_quality(report)}, {drop}"
    for name, _, numbers in output_cells(report):
        yield f"{name}: {numbers}"
