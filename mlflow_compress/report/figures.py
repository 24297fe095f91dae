"""Plotly figures of trials and layers; plotly is imported where a figure is drawn.

Colours are Okabe and Ito's (2008), which people with colour-blindness can tell apart; marker
shapes say the same once more.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mlflow_compress.records import Recipe, Report, Trial, Variant, change_unit, shown_change

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

__all__ = [
    "COLOURS",
    "SYMBOLS",
    "LimitLines",
    "figure_json",
    "front_figure",
    "layers_figure",
    "layers_menu_figure",
    "sensitivity_figure",
    "technique_mix",
]

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
SYMBOLS = ("circle", "square", "diamond", "triangle-up", "cross", "x", "star")


_TICKS = tuple(digit * 10**power for power in range(-1, 5) for digit in (1, 2, 5))
"""Where the axis of rates is labelled; plotly's own labels leave the power out."""
_DASHES = ("dash", "dashdot", "longdash", "longdashdot", "dot")


@dataclass(frozen=True)
class LimitLines:
    """What a target allows, on the axes of the front.

    Attributes:
        target: the target's name.
        rate: the least compression rate that its size limit leaves, or None.
        loss: the largest loss, in the unit of the metric's drops (points of accuracy), or None.
    """

    target: str
    rate: float | None = None
    loss: float | None = None


def technique_mix(recipe: Recipe) -> str:
    """Return which techniques a recipe mixes, without their settings: ``prune + share``."""
    return " + ".join(step.technique for step in recipe.steps) or "lossless"


def front_figure(
    trials: Sequence[Trial],
    on_front: Collection[str] | None = None,
    *,
    links: Mapping[str, str] | None = None,
    limits: Sequence[LimitLines] = (),
) -> "Figure":
    """Draw accuracy loss against compression rate, one colour per mix of techniques.

    Without labels the loss is the share of rows on which the top-1 class changed.

    Args:
        trials: the trials to draw; those without a variant are left out.
        on_front: keys of the variants on the front, joined by a line; found from the two axes
            when None.
        links: where a click on a variant leads, by its key.
        limits: what targets allow, as lines that the legend switches on.
    """
    from plotly.graph_objects import Figure, Scatter

    variants = [t.variant for t in trials if t.variant is not None and _loss(t.variant) is not None]
    figure = Figure()
    unit = _plain(_unit(variants))
    mixes = sorted({technique_mix(variant.recipe) for variant in variants})
    for index, mix in enumerate(mixes):
        group = [variant for variant in variants if technique_mix(variant.recipe) == mix]
        figure.add_trace(
            Scatter(
                x=[v.report.rate for v in group],
                y=[_loss(v) for v in group],
                mode="markers",
                name=_plain(mix),
                text=[_plain(v.recipe.label) for v in group],
                customdata=None if links is None else [links.get(v.key, "") for v in group],
                hovertemplate=f"%{{text}}<br>%{{x:.1f}}x, %{{y:.4~g}} {unit}<extra></extra>",
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
    for index, limit in enumerate(limits if variants else ()):
        x, y = _limit_lines(limit, variants)
        dash = {"color": "#555555", "dash": _DASHES[index % len(_DASHES)], "width": 1.5}
        name = f"limits of {_plain(limit.target)}"
        if x:
            figure.add_trace(
                Scatter(x=x, y=y, mode="lines", name=name, line=dash, hoverinfo="skip")
            )
    labelled = any(variant.report.accuracy is not None for variant in variants)
    axis = f"accuracy loss, {unit}".removesuffix(", ") if labelled else "fidelity loss, points"
    figure.update_layout(
        title="Accuracy loss against compression rate",
        xaxis={
            "title": "compression rate (times smaller, whole file)",
            "type": "log",
            "tickvals": _TICKS,
            "ticktext": [f"{rate:g}" for rate in _TICKS],
        },
        yaxis={"title": axis},
        template="plotly_white",
    )
    return figure


def _unit(variants: Sequence[Variant]) -> str:
    """Return what the losses are counted in; nothing when variants have several units."""
    units = {change_unit(one.report.accuracy.unit) for one in variants if one.report.accuracy}
    return units.pop() if len(units) == 1 else "" if units else change_unit("share")


def _limit_lines(
    limit: LimitLines, variants: Sequence[Variant]
) -> tuple[list[float | None], list[float | None]]:
    """Return x and y of a target's limits; one that is far from every variant is left out."""
    rates = [v.report.rate for v in variants]
    losses = [_loss(v) or 0.0 for v in variants]
    left, right = min(rates), max(rates)
    low, high = min(0.0, *losses), max(0.1, *losses)
    x: list[float | None] = []
    y: list[float | None] = []
    if limit.rate is not None and limit.rate > left:
        right = max(right, limit.rate)
        x, y = [limit.rate, limit.rate, None], [low, high, None]
    if limit.loss is not None and limit.loss < 2 * high:
        x, y = [*x, left, right], [*y, limit.loss, limit.loss]
    return x, y


def _plain(text: str) -> str:
    """Return a text that plotly shows as it is: it would read some HTML in it."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def figure_json(figure: "Figure") -> str:
    """Return a figure as JSON that cannot end the script element it stands in."""
    return str(figure.to_json()).replace("<", "\\u003c")


def _loss(variant: Variant) -> float | None:
    report = variant.report
    if report.accuracy is not None:
        return shown_change(report.accuracy.drop, report.accuracy.unit)
    if report.fidelity is not None:
        return 100 * (1 - report.fidelity.quality)
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
    figure = _layers_frame()
    for column, bar in _layer_bars(report):
        figure.add_trace(bar, row=1, col=column)
    return figure


def layers_menu_figure(variants: Sequence[Variant]) -> "Figure":
    """Draw the layers of one variant at a time, chosen from a menu."""
    figure = _layers_frame()
    buttons = []
    bars = [_layer_bars(variant.report) for variant in variants]
    for place, (variant, group) in enumerate(zip(variants, bars, strict=True)):
        for column, bar in group:
            figure.add_trace(bar.update(visible=place == 0), row=1, col=column)
        shown = [index == place for index, other in enumerate(bars) for _ in other]
        label = f"{variant.recipe.label} · {variant.report.rate:.1f}x"
        button = {"label": _plain(label), "method": "restyle", "args": [{"visible": shown}]}
        buttons.append(button)
    if buttons:
        figure.update_layout(
            updatemenus=[
                {"buttons": buttons, "x": 0, "xanchor": "left", "y": 1.12, "yanchor": "bottom"}
            ],
            title={"y": 0.98, "yanchor": "top"},
            margin={"t": 150},
        )
    return figure


def _layer_bars(report: Report) -> list[tuple[int, Any]]:
    """Return the bars of a report's layers, each with its column."""
    from plotly.graph_objects import Bar

    names = [_plain(layer.name) for layer in report.layers]
    columns = (
        (1, "source bytes", [x.source_bytes for x in report.layers], COLOURS[5]),
        (1, "packed bytes", [x.packed_bytes for x in report.layers], COLOURS[0]),
        (2, "entropy", [x.entropy for x in report.layers], COLOURS[2]),
        (2, "bits spent", [x.bits_spent for x in report.layers], COLOURS[1]),
    )
    return [
        (column, Bar(y=names, x=values, name=name, orientation="h", marker_color=colour))
        for column, name, values, colour in columns
    ]


def _layers_frame() -> "Figure":
    from plotly.subplots import make_subplots

    titles = ("bytes per layer", "bits per weight")
    figure = make_subplots(rows=1, cols=2, subplot_titles=titles, shared_yaxes=True)
    figure.update_xaxes(type="log", row=1, col=1)
    figure.update_layout(title="Per layer: a high rate shows a redundant layer", barmode="group")
    figure.update_layout(template="plotly_white", yaxis={"autorange": "reversed"})
    return figure


def sensitivity_figure(rows: Sequence[Mapping[str, Any]]) -> "Figure":
    """Draw what each layer loses against the bytes that it takes, one line per layer and technique.

    Args:
        rows: ``layer``, ``technique`` (empty for the layer as it is), ``level``, ``bytes``, ``kl``
            and ``error`` of each effect. The error is drawn where there is no KL divergence; those
            with neither are left out.
    """
    from plotly.graph_objects import Figure, Scatter

    figure = Figure()
    has_classes = any(row["kl"] is not None for row in rows)
    lost = "kl" if has_classes else "error"
    known = [row for row in rows if row.get(lost) is not None and row["technique"]]
    shown = "%{y:.3g} nats" if has_classes else "error %{y:.3g}"
    layers = list(dict.fromkeys(row["layer"] for row in known))
    techniques = list(dict.fromkeys(row["technique"] for row in known))
    for place, layer in enumerate(layers):
        for index, technique in enumerate(techniques):
            line = [r for r in known if (r["layer"], r["technique"]) == (layer, technique)]
            line.sort(key=lambda row: row["bytes"])
            figure.add_trace(
                Scatter(
                    x=[row["bytes"] for row in line],
                    y=[max(row[lost], 1e-6) for row in line],
                    name=_plain(f"{layer} · {technique}"),
                    text=[_plain(f"{layer}: {technique} {row['level']:g}") for row in line],
                    hovertemplate=f"%{{text}}<br>%{{x}} bytes, {shown}<extra></extra>",
                    mode="lines+markers",
                    line={"color": COLOURS[place % len(COLOURS)]},
                    marker={"size": 8, "symbol": SYMBOLS[index % len(SYMBOLS)]},
                )
            )
    figure.update_layout(
        title="What each layer bears, all others as in the source",
        xaxis={"title": "bytes of the layer, entropy-coded", "type": "log"},
        yaxis={
            "title": "KL divergence of the outputs, nats"
            if has_classes
            else "normalised error of the outputs",
            "type": "log",
        },
        template="plotly_white",
    )
    return figure
