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
    figure = make_subplots(
        rows=max(len(places), 1), cols=1, shared_xaxes=True, subplot_titles=titles
    )
    for panel, place in enumerate(places, 1):
        for index, candidate in enumerate(candidates):
            line = [r for r in rows if (r["place"], r["candidate"]) == (place, candidate)]
            colour = COLOURS[index % len(COLOURS)]
            dash = _DASHES[index // len(COLOURS) % len(_DASHES)]
            curve = Scatter(
                x=[row["epoch"] for row in line],
                y=[row["probability"] for row in line],
                name=candidate,
                legendgroup=candidate,
                showlegend=panel == 1 or not any(r["candidate"] == candidate for r in rows
                                                 if r["place"] in places[: panel - 1]),
                mode="lines+markers",
                line={"color": colour, "dash": dash},
                hovertemplate=f"{candidate}<br>epoch %{{x}}: %{{y:.3f}}<extra></extra>",
            )  # fmt: skip
            if line:
                figure.add_trace(curve, row=panel, col=1)
    figure.update_yaxes(range=[0, 1])
    figure.update_xaxes(title="epoch", row=max(len(places), 1), col=1)
    figure.update_layout(
        title="Probability of each candidate",
        height=120 + _ROW * max(len(places), 1),
        template="plotly_white",
    )
    return figure
