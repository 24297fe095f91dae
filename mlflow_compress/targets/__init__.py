"""Edge targets: what a device can run, its limits, and where it is measured."""

from mlflow_compress.targets.profile import (
    AccuracyLimits,
    Execution,
    Limits,
    Reward,
    Target,
    load_target,
    shipped_names,
)
from mlflow_compress.targets.units import format_ms, format_size, parse_ms, parse_size

__all__ = [
    "AccuracyLimits",
    "Execution",
    "Limits",
    "Reward",
    "Target",
    "format_ms",
    "format_size",
    "load_target",
    "parse_ms",
    "parse_size",
    "shipped_names",
]
