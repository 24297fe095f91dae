"""What the terminal shows of a finished job."""

import sys
from pathlib import Path
from urllib.parse import urlsplit

from rich import box
from rich.table import Table

from mlflow_compress.cli.output import console, echo, print_table
from mlflow_compress.jobs.compress import Outcome
from mlflow_compress.records import Variant
from mlflow_compress.report.tables import (
    drop_head,
    format_bytes,
    format_drop,
    format_latency,
    format_quality,
)

__all__ = ["show_outcome"]

_WIDE = 110


def show_outcome(outcome: Outcome) -> None:
    """Print the table of registered variants, each target's decision, and where to look."""
    _print_table(outcome)
    counts = {
        state: sum(t.state == state for t in outcome.trials)
        for state in ("complete", "reused", "failed", "dropped")
    }
    echo(
        f"\n{len(outcome.trials)} trials: {counts['complete']} run now, "
        f"{counts['reused']} reused, {counts['failed']} failed"
        + (f", {counts['dropped']} dropped" if counts["dropped"] else "")
    )
    for decision in outcome.decisions:
        echo(f"{decision.target}: {decision.outcome}: {decision.reason}")
    if outcome.emulated and any(one.report.latency for one in outcome.registered):
        echo(f"latency is emulated on this machine for {', '.join(outcome.emulated)}")
    for target, problem in outcome.problems.items():
        echo(f"{target}: {problem}", err=True)
    echo(f"\nlook at it:  {_ui_command(outcome.tracking_uri)}")
    echo(f"then open:   {_ui_link(outcome)}")


def _print_table(outcome: Outcome) -> None:
    there = console()
    is_wide = not there.is_terminal or there.width >= _WIDE
    title = f"{outcome.registered_as}: variants of {outcome.source}"
    table = Table(
        title=title, box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 2 if is_wide else 0)
    )
    # Where there is no room, texts are folded and numbers stay whole.
    table.add_column("v", justify="right", no_wrap=True)
    table.add_column("variant", overflow="fold")
    drop = drop_head(variant.report for variant in outcome.registered)
    for name in ("rate", "accuracy", drop, "size", "latency"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("won", overflow="fold")
    for variant in sorted(outcome.registered, key=lambda v: v.report.size_bytes):
        table.add_row(*_row(variant, outcome, is_wide))
    print_table(table)


def _row(variant: Variant, outcome: Outcome, is_wide: bool) -> list[str]:
    report = variant.report
    latency = format_latency(report)
    return [
        str(variant.version),
        variant.recipe.label,
        f"{report.rate:.1f}x",
        format_quality(report),
        format_drop(report),
        format_bytes(report.size_bytes),
        latency if is_wide else latency.partition(" (")[0],
        ", ".join(outcome.targets_of(variant)),
    ]


def _is_server(tracking_uri: str) -> bool:
    return urlsplit(tracking_uri).scheme in ("http", "https")


def _ui_command(tracking_uri: str) -> str:
    if _is_server(tracking_uri):
        return f"the server at {tracking_uri}"
    path = Path(tracking_uri.removeprefix("sqlite:///"))
    if tracking_uri.startswith("sqlite:///") and path.is_relative_to(Path.cwd()):
        tracking_uri = f"sqlite:///{path.relative_to(Path.cwd())}"
    # An environment below this folder is most likely not activated: name its mlflow by path.
    beside = Path(sys.executable).parent / "mlflow"
    mlflow = beside.relative_to(Path.cwd()) if beside.is_relative_to(Path.cwd()) else "mlflow"
    return f"{mlflow} ui --backend-store-uri {tracking_uri} --port 5000"


def _ui_link(outcome: Outcome) -> str:
    base = outcome.tracking_uri if _is_server(outcome.tracking_uri) else "http://127.0.0.1:5000"
    # Without this parameter MLflow opens in its GenAI mode, which hides models and the registry.
    query = "?workflowType=machine_learning"
    return f"{base.rstrip('/')}/#/models/{outcome.registered_as}{query}"
