"""What of a recipe and a report becomes MLflow parameters and metrics."""

import math
import re
from collections.abc import Mapping

from mlflow_compress.records import Fidelity, Recipe, Report
from mlflow_compress.search.observer import Epoch

__all__ = ["epoch_metrics", "recipe_params", "report_metrics"]


def recipe_params(recipe: Recipe) -> dict[str, str]:
    """Return a recipe's settings as flat parameters: ``prune.sparsity`` is ``0.9``."""
    params = {"recipe": recipe.label, "profile": recipe.profile}
    for position, step in enumerate(recipe.steps):
        before = [earlier.technique for earlier in recipe.steps[:position]].count(step.technique)
        prefix = step.technique + (f"_{before + 1}" if before else "")
        for name, value in step.settings.items():
            params[f"{prefix}.{name}"] = str(value)
    return params


def report_metrics(report: Report) -> tuple[dict[str, float], dict[str, float]]:
    """Return the numbers of the file and the device, and those of the evaluation rows."""
    numbers: dict[str, float] = {
        "rate": report.rate,
        "size_bytes": report.size_bytes,
        "source_bytes": report.source_bytes,
        "entropy_bits": report.entropy,
    }
    if report.memory_bytes is not None:
        numbers["memory_bytes"] = report.memory_bytes
    for memory in report.memory:
        numbers[f"memory_bytes{_place(memory.device, memory.threads)}"] = memory.bytes
    for latency in report.latency:
        place = "" if latency is report.latency[0] else _place(latency.device, latency.threads)
        numbers[f"latency_p50_ms{place}"] = latency.p50
        numbers[f"latency_p95_ms{place}"] = latency.p95
        numbers[f"latency_ratio{place}"] = latency.ratio
        numbers[f"latency_ratio_high{place}"] = latency.ratio_interval.high
    quality: dict[str, float] = {}
    if report.accuracy is not None:
        quality["accuracy"] = report.accuracy.value
        if report.accuracy.interval is not None:
            quality["accuracy_low"] = report.accuracy.interval.low
            quality["accuracy_high"] = report.accuracy.interval.high
        quality["accuracy_source"] = report.accuracy.source
        quality["accuracy_drop"] = report.accuracy.drop
        quality["accuracy_drop_low"] = report.accuracy.drop_interval.low
        quality["accuracy_drop_high"] = report.accuracy.drop_interval.high
    if report.fidelity is not None:
        quality |= _fidelity_metrics(report.fidelity)
    return _finite(numbers), _finite(quality)


def _fidelity_metrics(fidelity: Fidelity) -> dict[str, float]:
    """Return the numbers of all outputs: ``fidelity.logits.agreement`` and the like."""
    numbers = {"agreement": fidelity.agreement, "kl_nats": fidelity.kl, "fidelity": fidelity.score}
    found = {name: value for name, value in numbers.items() if value is not None}
    for output in fidelity.outputs:
        for name, value in output.measures.items():
            found[f"fidelity.{_text(output.output)}.{name}"] = value
    return found


def epoch_metrics(epoch: Epoch) -> dict[str, float]:
    """Return an epoch's numbers: ``train.prune.validation_loss`` and the like."""
    numbers = {
        "loss": epoch.loss,
        "validation_loss": epoch.validation_loss,
        "validation_score": epoch.score,
        "bits_per_weight": epoch.bits,
    }
    told = {f"train.{epoch.technique}.{n}": v for n, v in numbers.items() if v is not None}
    return _finite(told)


def _place(device: str, threads: int) -> str:
    """Return the end of a metric's name; MLflow takes few characters in it."""
    return f".{_text(device)}.{threads}"


def _text(name: str) -> str:
    """Return a text as the names of metrics take it."""
    return re.sub(r"[^A-Za-z0-9_.-]+", "_", name)


def _finite(numbers: Mapping[str, float]) -> dict[str, float]:
    """Leave out what is not finite: MLflow would show it as 0 or as a huge number."""
    return {name: value for name, value in numbers.items() if math.isfinite(value)}
