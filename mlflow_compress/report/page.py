"""The report of a search as one self-contained HTML page, for people without MLflow."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from mlflow_compress.records import Trial, Variant
from mlflow_compress.report.figures import (
    figure_json,
    front_figure,
    layers_figure,
    sensitivity_figure,
)
from mlflow_compress.report.tables import (
    drop_head,
    format_bytes,
    format_drop,
    format_latency,
    format_quality,
    format_slower,
    layer_rows,
    output_cells,
    stage_cells,
)

__all__ = ["DecisionLine", "html_report"]

_STAGES = ("stage", "bytes", "rate", "sparsity", "entropy, bits/weight")
_OUTPUTS = ("output", "kind", "against the source's [95 %]")
_SENSITIVITY = ("layer", "technique", "level", "bytes", "KL divergence, nats", "error")


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
    sensitivity: Sequence[Mapping[str, Any]] = (),
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
        sensitivity: what each layer bears, as :func:`sensitivity_figure` takes it.
    """
    from jinja2 import Environment, PackageLoader
    from plotly.offline import get_plotlyjs

    variants = [trial.variant for trial in trials if trial.variant is not None]
    variants.sort(key=lambda variant: (variant.report.size_bytes, variant.key))
    front = [v for v in variants if on_front is None or v.key in on_front]
    loader = PackageLoader("mlflow_compress.report", ".")
    template = Environment(loader=loader, autoescape=True, trim_blocks=True).get_template(
        "page.html.j2"
    )
    return template.render(
        title=title,
        source=source,
        source_bytes=format_bytes(variants[0].report.source_bytes) if variants else "size unknown",
        best=_best(variants),
        front_head=_head("variant", front),
        front_rows=[_row(variant) for variant in front],
        decisions=[decision.cells for decision in decisions],
        variants=[_details(variant) for variant in front],
        output_head=_OUTPUTS,
        stage_head=_STAGES,
        layer_head=_layer_head(front),
        trial_head=_head("recipe", variants),
        trials=[_row(variant) for variant in variants],
        failed=[*((t.recipe.label, t.error) for t in trials if t.variant is None), *failed],
        plotly=get_plotlyjs(),
        sensitivity_head=_SENSITIVITY,
        sensitivity=[_sensitivity_row(row) for row in sensitivity],
        figures=_figures(trials, on_front, front, sensitivity),
    )


def _figures(
    trials: Sequence[Trial],
    on_front: Collection[str] | None,
    front: Sequence[Variant],
    sensitivity: Sequence[Mapping[str, Any]],
) -> str:
    """Return the page's figures as JSON, by the id of the element that each is drawn in."""
    drawn = {f"layers-figure-{n}": layers_figure(one.report) for n, one in enumerate(front, 1)}
    if any(trial.variant is not None for trial in trials):
        drawn["front-figure"] = front_figure(trials, on_front)
    if sensitivity:
        drawn["sensitivity-figure"] = sensitivity_figure(sensitivity)
    parts = [f'"{name}": {figure_json(figure)}' for name, figure in drawn.items()]
    return f"{{{', '.join(parts)}}}"


def _sensitivity_row(row: Mapping[str, Any]) -> tuple[str, ...]:
    kl, error = row.get("kl"), row.get("error")
    return (
        str(row["layer"]),
        str(row["technique"] or "as it is"),
        "-" if row.get("level") is None else f"{row['level']:g}",
        f"{row['bytes']:,.0f}",
        "-" if kl is None else f"{kl:.3g}",
        "-" if error is None else f"{error:.3g}",
    )


def _best(variants: Sequence[Variant]) -> str:
    if not variants:
        return "none"
    report = variants[0].report
    return f"{format_bytes(report.size_bytes)}, {report.rate:.1f} times smaller"


def _head(first: str, variants: Sequence[Variant]) -> tuple[str, ...]:
    drop = drop_head(variant.report for variant in variants)
    return (first, "rate", "size", "accuracy", drop, "latency")


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
        "outputs": output_cells(report),
        "stages": [stage_cells(stage) for stage in report.stages],
        "layers": [tuple(row.values()) for row in layer_rows(report)],
    }


def _layer_head(variants: Sequence[Variant]) -> list[str]:
    rows = layer_rows(variants[0].report) if variants else []
    return [name.replace("_", " ") for name in rows[0]] if rows else []
