"""Plotly figures of trials and layers; plotly is imported where a figure is drawn.

Colours are Okabe and Ito's (2008), which people with colour-blindness can tell apart; marker
shapes say the same once more.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mlflow_compress.records import Recipe, Report, Trial, Variant

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

__all__ = [
    "COLOURS",
    "SYMBOLS",
    "front_figure",
    "layers_figure",
    "sensitivity_figure",
    "technique_mix",
]

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
SYMBOLS = ("circle", "square", "diamond", "triangle-up", "cross", "x", "star")


def technique_mix(recipe: Recipe) -> str:
    """Return which techniques a recipe mixes, without their settings: ``prune + share``."""
    return " + ".join(step.technique for step in recipe.steps) or "lossless"


def front_figure(trials: Sequence[Trial], on_front: Collection[str] | None = None) -> "Figure":
    """Draw accuracy loss against compression rate, one colour per mix of techniques.

    Without labels the loss is the share of rows on which the top-1 class changed.

    Args:
        trials: the trials to draw; those without a variant are left out.
        on_front: keys of the variants on the front, joined by a line; found from the two axes
            when None.
    """
    from plotly.graph_objects import Figure, Scatter

    variants = [t.variant for t in trials if t.variant is not None and _loss(t.variant) is not None]
    figure = Figure()
    mixes = sorted({technique_mix(variant.recipe) for variant in variants})
    for index, mix in enumerate(mixes):
        group = [variant for variant in variants if technique_mix(variant.recipe) == mix]
        figure.add_trace(
            Scatter(
                x=[v.report.rate for v in group],
                y=[_loss(v) for v in group],
                mode="markers",
                name=mix,
                text=[v.recipe.label for v in group],
                hovertemplate="%{text}<br>%{x:.1f}x, %{y:.2f} points<extra></extra>",
                marker={
                    "size": 10,
                    "color": COLOURS[index % len(COLOURS)],
                    "symbol": SYMBOLS[index % len(SYMBOLS)],
                },
            )
        )
    line = _front_line(variants, on_front)
    if line:
        figure.add_trace(
            Scatter(
                x=[v.report.rate for v in line],
                y=[_loss(v) for v in line],
                mode="lines",
                name="front",
                line={"color": "#777777", "shape": "hv", "dash": "dot"},
                hoverinfo="skip",
            )
        )
    labelled = any(variant.report.accuracy is not None for variant in variants)
    figure.update_layout(
        title="Accuracy loss against compression rate",
        xaxis={
            "title": "compression rate (times smaller, whole file)",
            "type": "log",
            "dtick": "D2",
        },
        yaxis={"title": "accuracy loss, points" if labelled else "changed top-1, points"},
        template="plotly_white",
    )
    return figure


def _loss(variant: Variant) -> float | None:
    report = variant.report
    if report.accuracy is not None:
        return 100 * report.accuracy.drop
    if report.fidelity is not None:
        return 100 * (1 - report.fidelity.agreement)
    return None


def _front_line(variants: Sequence[Variant], on_front: Collection[str] | None) -> list[Variant]:
    if on_front is not None:
        chosen = [variant for variant in variants if variant.key in on_front]
        return sorted(chosen, key=lambda variant: variant.report.rate)
    line: list[Variant] = []
    for variant in sorted(variants, key=lambda v: (-v.report.rate, _loss(v) or 0.0)):
        if not line or (_loss(variant) or 0.0) < (_loss(line[-1]) or 0.0):
            line.append(variant)
    return line[::-1]


def layers_figure(report: Report) -> "Figure":
    """Draw each layer's bytes before and after, and its bits: entropy and redundancy."""
    from plotly.graph_objects import Bar
    from plotly.subplots import make_subplots

    names = [layer.name for layer in report.layers]
    figure = make_subplots(
        rows=1, cols=2, subplot_titles=("bytes per layer", "bits per weight"), shared_yaxes=True
    )
    columns = (
        (1, "source bytes", [x.source_bytes for x in report.layers], COLOURS[5]),
        (1, "packed bytes", [x.packed_bytes for x in report.layers], COLOURS[0]),
        (2, "entropy", [x.entropy for x in report.layers], COLOURS[2]),
        (2, "bits spent", [x.bits_spent for x in report.layers], COLOURS[1]),
    )
    for column, name, values, colour in columns:
        bar = Bar(y=names, x=values, name=name, orientation="h", marker_color=colour)
        figure.add_trace(bar, row=1, col=column)
    figure.update_xaxes(type="log", row=1, col=1)
    figure.update_layout(title="Per layer: a high rate shows a redundant layer", barmode="group")
    figure.update_layout(template="plotly_white", yaxis={"autorange": "reversed"})
    return figure


def sensitivity_figure(rows: Sequence[Mapping[str, Any]]) -> "Figure":
    """Draw what each layer loses against the bytes that it takes, one line per layer and technique.

    Args:
        rows: ``layer``, ``technique`` (empty for the layer as it is), ``level``, ``bytes`` and
            ``kl`` of each effect; those without a KL divergence are left out.
    """
    from plotly.graph_objects import Figure, Scatter

    figure = Figure()
    known = [row for row in rows if row["kl"] is not None and row["technique"]]
    layers = list(dict.fromkeys(row["layer"] for row in known))
    techniques = list(dict.fromkeys(row["technique"] for row in known))
    for place, layer in enumerate(layers):
        for index, technique in enumerate(techniques):
            line = [r for r in known if (r["layer"], r["technique"]) == (layer, technique)]
            line.sort(key=lambda row: row["bytes"])
            figure.add_trace(
                Scatter(
                    x=[row["bytes"] for row in line],
                    y=[max(row["kl"], 1e-6) for row in line],
                    name=f"{layer} · {technique}",
                    text=[f"{layer}: {technique} {row['level']:g}" for row in line],
                    hovertemplate="%{text}<br>%{x} bytes, %{y:.3g} nats<extra></extra>",
                    mode="lines+markers",
                    line={"color": COLOURS[place % len(COLOURS)]},
                    marker={"size": 8, "symbol": SYMBOLS[index % len(SYMBOLS)]},
                )
            )
    figure.update_layout(
        title="What each layer bears, all others as in the source",
        xaxis={"title": "bytes of the layer, entropy-coded", "type": "log"},
        yaxis={"title": "KL divergence of the outputs, nats", "type": "log"},
        template="plotly_white",
    )
    return figure
