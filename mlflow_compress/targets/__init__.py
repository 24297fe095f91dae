"""Edge targets: what a device can run, its limits, and where it is measured."""

from typing import TYPE_CHECKING, Any

from mlflow_compress.targets.facts import DeviceFacts, Finding, compare, verify
from mlflow_compress.targets.judging import (
    ALWAYS,
    asked_kinds,
    check_outputs,
    is_out_of_reach,
    judge,
    limits_for,
    target_limits,
)
from mlflow_compress.targets.limits import (
    QUALITY_SCALE,
    Limit,
    bound_of,
    limits_of,
    metric_problem,
)
from mlflow_compress.targets.looks import Look
from mlflow_compress.targets.profile import (
    AccuracyLimits,
    Execution,
    Limits,
    Reward,
    Target,
    load_target,
    shipped_names,
    target_data,
)
from mlflow_compress.targets.readings import Reading, latency_for
from mlflow_compress.targets.runnable import is_limited, lacks, needs_of, why_not
from mlflow_compress.targets.units import format_ms, format_size, parse_ms, parse_size

if TYPE_CHECKING:
    from mlflow_compress.targets.devices import (
        Measurement,
        Timings,
        device_for,
        loads_opset,
        measure_many,
        measure_memory,
        measure_on,
        read_facts,
    )

__all__ = [
    "ALWAYS",
    "QUALITY_SCALE",
    "AccuracyLimits",
    "DeviceFacts",
    "Execution",
    "Finding",
    "Limit",
    "Limits",
    "Look",
    "Measurement",
    "Reading",
    "Reward",
    "Target",
    "Timings",
    "asked_kinds",
    "bound_of",
    "check_outputs",
    "compare",
    "device_for",
    "format_ms",
    "format_size",
    "is_limited",
    "is_out_of_reach",
    "judge",
    "lacks",
    "latency_for",
    "limits_for",
    "limits_of",
    "load_target",
    "loads_opset",
    "measure_many",
    "measure_memory",
    "measure_on",
    "metric_problem",
    "needs_of",
    "parse_ms",
    "parse_size",
    "read_facts",
    "shipped_names",
    "target_data",
    "target_limits",
    "verify",
    "why_not",
]

_DEVICES = {
    "Measurement",
    "Timings",
    "device_for",
    "loads_opset",
    "measure_many",
    "measure_memory",
    "measure_on",
    "read_facts",
}


def __getattr__(name: str) -> Any:
    """Import what measures when it is first asked for; profiles need no onnxruntime."""
    if name not in _DEVICES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from mlflow_compress.targets import devices

    return getattr(devices, name)
