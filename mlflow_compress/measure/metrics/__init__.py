"""Metrics, as each field knows them, found by entry point."""

from mlflow_compress.measure.metrics.base import (
    Metric,
    MetricFamily,
    Rows,
    Scores,
    by_row,
    for_set,
)
from mlflow_compress.measure.metrics.registry import find_metric, metric_names
from mlflow_compress.measure.metrics.spec import MetricSpec

__all__ = [
    "Metric",
    "MetricFamily",
    "MetricSpec",
    "Rows",
    "Scores",
    "by_row",
    "find_metric",
    "for_set",
    "metric_names",
]
