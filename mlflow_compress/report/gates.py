"""The gates of a path search over time, as a figure."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mlflow_compress.report.figures import COLOURS

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

__all__ = ["gates_figure"]

_DASHES = ("solid", "dash", "dot")
_ROW = 180
"""Height of one place's curves, in pixels."""


def gates_figure(rows: Sequence[Mapping[str, Any]]) -> "Figure":
    """Draw the probability of each candidate against the epoch, one panel per place.

    Args:
        rows: ``epoch``, ``place``, ``candidate`` and ``probability`` of each candidate of each
            place in each epoch.
    """
    from plotly.graph_objects import Scatter
    from plotly.subplots import make_subplots

    places = list(dict.fromkeys(row["place"] for row in rows))
    candidates = list(dict.fromkeys(row["candidate"] for row in rows))
    titles = [f"place {place}" for place in places]
    count = max(len(places), 1)
    figure = make_subplots(rows=count, cols=1, shared_xaxes=True, subplot_titles=titles)
    named: set[str] = set()
    for panel, place in enumerate(places, 1):
        for index, candidate in enumerate(candidates):
            line = [r for r in rows if (r["place"], r["candidate"]) == (place, candidate)]
            if not line:
                continue
            curve = Scatter(
                x=[row["epoch"] for row in line],
                y=[row["probability"] for row in line],
                name=candidate,
                legendgroup=candidate,
                showlegend=candidate not in named,  # once, whatever the number of places
                mode="lines+markers",
                line={
                    "color": COLOURS[index % len(COLOURS)],
                    "dash": _DASHES[index // len(COLOURS) % len(_DASHES)],
                },
                hovertemplate=f"{candidate}<br>epoch %{{x}}: %{{y:.3f}}<extra></extra>",
            )
            figure.add_trace(curve, row=panel, col=1)
            named.add(candidate)
    figure.update_yaxes(range=[0, 1])
    figure.update_xaxes(title="epoch", row=count, col=1)
    figure.update_layout(
        title="Probability of each candidate",
        height=120 + _ROW * count,
        template="plotly_white",
    )
    return figure
