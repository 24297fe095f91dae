"""``mlflow-compress report``."""

from pathlib import Path

import click

from mlflow_compress.base.files import replacing
from mlflow_compress.cli.command import command
from mlflow_compress.cli.output import FORCE, OUTPUT, check_output, echo

__all__ = ["report"]


@command()
@click.argument("run")
@OUTPUT
@FORCE
@click.option("--tracking-uri", help="Where the run is; MLFLOW_TRACKING_URI by default.")
def report(run: str, output: Path, force: bool, tracking_uri: str | None) -> None:
    """Write the search of RUN (its id, or that of one of its trials) as one HTML page.

    The page needs no MLflow and no network: the front, what was decided for each target, stage by
    stage and layer by layer tables.
    """
    from mlflow_compress.recording.read import read_search
    from mlflow_compress.report.page import html_report
    from mlflow_compress.search.front import front
    from mlflow_compress.tracking.client import connect

    check_output(output, None, force)
    found = read_search(connect(tracking_uri), run)
    labelled = any(t.variant and t.variant.report.accuracy for t in found.trials)
    objectives = ("rate", "accuracy" if labelled else "fidelity")
    page = html_report(
        found.trials,
        title=found.name,
        source=found.source,
        on_front={trial.key for trial in front(found.trials, objectives)},
        failed=found.failed,
        decisions=found.decisions,
        sensitivity=found.sensitivity,
    )
    with replacing(output) as path:
        path.write_text(page, encoding="utf-8")
    echo(f"wrote {output}: {len(found.trials)} variants, {len(found.decisions)} decisions")
