"""The report of a search as one self-contained HTML page, for people without MLflow."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from mlflow_compress.records import Report, Trial, Variant
from mlflow_compress.report.figures import front_figure, layers_figure
from mlflow_compress.report.tables import (
    format_bytes,
    format_drop,
    format_latency,
    format_quality,
    format_slower,
    layer_rows,
)

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

__all__ = ["DecisionLine", "html_report"]

_FRONT = ("variant", "rate", "size", "accuracy", "drop, points [95 %]", "latency")
_STAGES = ("stage", "bytes", "rate", "sparsity", "entropy, bits/weight")
_TRIALS = ("recipe", "rate", "size", "accuracy", "drop, points [95 %]", "latency")


@dataclass(frozen=True)
class DecisionLine:
    """A decision as the report lists it.

    Attributes:
        target: the target's name.
        outcome: what was done.
        version: the version that the alias should point to, or None.
        incumbent: the version before, or None.
        start_ms: when, milliseconds since 1970.
        reason: one sentence.
    """

    target: str
    outcome: str
    version: int | None
    incumbent: int | None
    start_ms: int
    reason: str

    @property
    def cells(self) -> tuple[str, ...]:
        """The decision as a row of the table."""
        when = datetime.fromtimestamp(self.start_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M UTC")
        versions = ("-" if v is None else f"v{v}" for v in (self.version, self.incumbent))
        return (self.target, self.outcome, *versions, when, self.reason)


def html_report(
    trials: Sequence[Trial],
    *,
    title: str,
    source: str,
    on_front: Collection[str] | None = None,
    failed: Sequence[tuple[str, str]] = (),
    decisions: Sequence[DecisionLine] = (),
) -> str:
    """Render a search: front, decisions, stages and layers of the front's variants, all trials.

    The page loads nothing from anywhere. Everything a figure shows is in a table too.

    Args:
        trials: the trials.
        title: the headline, such as the search's name.
        source: URI of the source.
        on_front: keys of the variants on the front; all variants when None.
        failed: label and reason of further trials that failed.
        decisions: newest first.
    """
    from jinja2 import Environment
    from plotly.offline import get_plotlyjs

    variants = [trial.variant for trial in trials if trial.variant is not None]
    variants.sort(key=lambda variant: (variant.report.size_bytes, variant.key))
    front = [v for v in variants if on_front is None or v.key in on_front]
    text = (files("mlflow_compress.report") / "page.html.j2").read_text(encoding="utf-8")
    template = Environment(autoescape=True, trim_blocks=True).from_string(text)
    return template.render(
        title=title,
        source=source,
        source_bytes=format_bytes(variants[0].report.source_bytes) if variants else "size unknown",
        best=_best(variants),
        front_head=_FRONT,
        front_rows=[_row(variant) for variant in front],
        decisions=[decision.cells for decision in decisions],
        variants=[_details(variant) for variant in front],
        stage_head=_STAGES,
        layer_head=_layer_head(front),
        trial_head=_TRIALS,
        trials=[_row(variant) for variant in variants],
        failed=[*((t.recipe.label, t.error) for t in trials if t.variant is None), *failed],
        plotly=get_plotlyjs(),
        front_figure=_json(front_figure(trials, on_front)) if variants else "null",
        layers_figure=_json(layers_figure(front[0].report)) if front else "null",
    )


def _best(variants: Sequence[Variant]) -> str:
    if not variants:
        return "none"
    report = variants[0].report
    return f"{format_bytes(report.size_bytes)}, {report.rate:.1f} times smaller"


def _row(variant: Variant) -> tuple[str, ...]:
    report = variant.report
    return (
        variant.recipe.label,
        f"{report.rate:.1f}x",
        format_bytes(report.size_bytes),
        format_quality(report),
        format_drop(report),
        format_latency(report),
    )


def _details(variant: Variant) -> dict[str, Any]:
    report = variant.report
    return {
        "label": variant.recipe.label,
        "rate": f"{report.rate:.1f}x",
        "slower": format_slower(report),
        "stages": [_stage(report, index) for index in range(len(report.stages))],
        "layers": [tuple(row.values()) for row in layer_rows(report)],
    }


def _stage(report: Report, index: int) -> tuple[str, ...]:
    stage = report.stages[index]
    return (
        stage.name,
        f"{stage.bytes:,}",
        f"{stage.rate:.2f}x",
        f"{100 * stage.sparsity:.1f} %",
        f"{stage.entropy:.3f}",
    )


def _layer_head(variants: Sequence[Variant]) -> list[str]:
    rows = layer_rows(variants[0].report) if variants else []
    return [name.replace("_", " ") for name in rows[0]] if rows else []


def _json(figure: "Figure") -> str:
    """A figure as JSON that cannot end the script element it stands in."""
    return str(figure.to_json()).replace("<", "\\u003c")
