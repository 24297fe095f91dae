"""Plotly figures of architecture search; plotly is imported where a figure is drawn."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mlflow_compress.report.figures import COLOURS, SYMBOLS

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

__all__ = ["shrink_figure", "subnets_figure"]


def subnets_figure(
    rows: Sequence[Mapping[str, Any]], limits: Mapping[str, float | None]
) -> "Figure":
    """Draw accuracy against latency of sampled subnets, with each target's limit.

    Args:
        rows: ``target``, ``subnet``, ``accuracy`` (0 to 1), ``ms``, ``measured`` (else the latency
            is the table's).
        limits: milliseconds by target, None where there is no limit.
    """
    from plotly.graph_objects import Figure, Scatter

    figure = Figure()
    for index, (target, limit) in enumerate(limits.items()):
        colour = COLOURS[index % len(COLOURS)]
        for measured in (False, True):
            group = [r for r in rows if r["target"] == target and r["measured"] == measured]
            figure.add_trace(
                Scatter(
                    x=[row["ms"] for row in group],
                    y=[100 * row["accuracy"] for row in group],
                    text=[row["subnet"] for row in group],
                    name=f"{target}: {'measured' if measured else 'by the table'}",
                    hovertemplate="%{text}<br>%{x:.3f} ms, %{y:.2f} %<extra></extra>",
                    mode="markers",
                    marker={
                        "color": colour,
                        "size": 11 if measured else 6,
                        "opacity": 1.0 if measured else 0.4,
                        "symbol": SYMBOLS[index % len(SYMBOLS)],
                    },
                )
            )
        if limit is not None:
            figure.add_vline(
                x=limit, line={"color": colour, "dash": "dash"}, annotation_text=target
            )
    figure.update_layout(
        title="Accuracy against latency of subnets; dashed: the limits of the targets",
        xaxis={"title": "milliseconds for one row", "type": "log"},
        yaxis={"title": "accuracy on rows held out, %"},
        template="plotly_white",
    )
    return figure


def shrink_figure(rows: Sequence[Mapping[str, Any]], target: str, limit: float | None) -> "Figure":
    """Draw the path of the mode shrink, from the largest subnet to the one within the limits.

    Args:
        rows: in order; ``shrunk`` (empty for the largest), ``bound``, ``subnet``, ``accuracy``,
            ``ms``, ``kept``.
        target: its name.
        limit: its milliseconds, or None.
    """
    from plotly.graph_objects import Figure, Scatter

    figure = Figure()
    labels = [f"{r['shrunk']} {r['bound']}" if r["shrunk"] else "largest" for r in rows]
    for kept, name in ((True, "kept"), (False, "taken back")):
        group = [
            (row, label) for row, label in zip(rows, labels, strict=True) if row["kept"] == kept
        ]
        figure.add_trace(
            Scatter(
                x=[row["ms"] for row, _ in group],
                y=[100 * row["accuracy"] for row, _ in group],
                text=[label for _, label in group],
                name=name,
                mode="lines+markers+text" if kept else "markers+text",
                textposition="top center",
                marker={"size": 10, "symbol": "circle" if kept else "x"},
                line={"color": COLOURS[0 if kept else 1]},
            )
        )
    if limit is not None:
        figure.add_vline(x=limit, line={"dash": "dash"}, annotation_text="limit")
    figure.update_layout(
        title=f"Shrink path of {target}",
        xaxis={"title": "milliseconds for one row, measured"},
        yaxis={"title": "accuracy on rows held out, %"},
        template="plotly_white",
    )
    return figure
