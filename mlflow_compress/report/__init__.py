"""Figures and tables, made from records only."""

from mlflow_compress.report.figures import front_figure, layers_figure, sensitivity_figure
from mlflow_compress.report.nas_figures import shrink_figure, subnets_figure
from mlflow_compress.report.tables import (
    format_slower,
    front_markdown,
    layer_rows,
    stage_markdown,
    trial_rows,
)

__all__ = [
    "format_slower",
    "front_figure",
    "front_markdown",
    "layer_rows",
    "layers_figure",
    "sensitivity_figure",
    "shrink_figure",
    "stage_markdown",
    "subnets_figure",
    "trial_rows",
]
