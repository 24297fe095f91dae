"""Figures and tables, made from records only."""

from mlflow_compress.report.figures import (
    LimitLines,
    figure_json,
    front_figure,
    layers_figure,
    layers_menu_figure,
    sensitivity_figure,
)
from mlflow_compress.report.nas_figures import shrink_figure, subnets_figure
from mlflow_compress.report.tables import (
    drop_head,
    format_bytes,
    format_drop,
    format_latency,
    format_quality,
    format_slower,
    front_markdown,
    layer_rows,
    stage_cells,
    stage_markdown,
    trial_rows,
)

__all__ = [
    "LimitLines",
    "drop_head",
    "figure_json",
    "format_bytes",
    "format_drop",
    "format_latency",
    "format_quality",
    "format_slower",
    "front_figure",
    "front_markdown",
    "layer_rows",
    "layers_figure",
    "layers_menu_figure",
    "sensitivity_figure",
    "shrink_figure",
    "stage_cells",
    "stage_markdown",
    "subnets_figure",
    "trial_rows",
]
