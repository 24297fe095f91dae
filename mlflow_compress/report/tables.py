"""Tables of trials, layers and stages, as plain rows and as Markdown."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from mlflow_compress import records
from mlflow_compress.records import Report, StageReport, Trial, Variant

__all__ = [
    "drop_head",
    "format_bytes",
    "format_drop",
    "format_latency",
    "format_quality",
    "format_slower",
    "front_markdown",
    "layer_rows",
    "markdown_table",
    "output_cells",
    "stage_cells",
    "stage_markdown",
    "trial_rows",
]


# A drift of the machine beyond this share is told beside a latency.
_DRIFT = 0.1


_HEADED_LEVEL = 0.95


def format_bytes(count: float) -> str:
    """Return a size for people: ``812 B``, ``24.1 kB``, ``3.20 MB`` (powers of 1000)."""
    for unit, scale, digits in (("MB", 1e6, 2), ("kB", 1e3, 1)):
        if count >= scale:
            return f"{count / scale:.{digits}f} {unit}"
    return f"{count:.0f} B"


def drop_head(reports: Iterable[Report]) -> str:
    """Return the head of a column of :func:`format_drop`: ``drop, points [95 %]``.

    Args:
        reports: those whose drops are in the column. Reports of several units name none.
    """
    units = {records.change_unit(r.accuracy.unit) for r in reports if r.accuracy is not None}
    unit = (units or {records.change_unit("share")}).pop() if len(units) < 2 else ""
    return f"drop, {unit} [95 %]" if unit else "drop [95 %]"


def format_drop(report: Report, *, with_unit: bool = False) -> str:
    """Return the drop with its interval: ``0.40 [-0.35, 1.15]``, with its unit where asked.

    A level other than the 95 % that tables are headed with is said.
    """
    if report.accuracy is None:
        return "-"
    unit = f" {records.change_unit(report.accuracy.unit)}" if with_unit else ""
    level = _level(report.accuracy.drop_interval)
    return f"{records.format_drop(report.accuracy)}{unit}".rstrip() + level


def _level(interval: records.Interval) -> str:
    return "" if interval.level == _HEADED_LEVEL else f" at {100 * interval.level:g} %"


def format_latency(report: Report) -> str:
    """Return the median latency and its ratio to the source: ``0.021 ms (0.55x)``.

    When the machine got slower or faster by more than a tenth meanwhile, that is said too.
    """
    if not report.latency:
        return "-"
    latency = report.latency[0]
    drift = latency.drift or 0.0
    told = f", drift {100 * drift:+.0f} %" if abs(drift) > _DRIFT else ""
    return f"{latency.p50:.3g} ms ({latency.ratio:.2f}x{told})"


def format_slower(report: Report) -> str:
    """Say which operators make a variant slower than its source; empty when it is not."""
    if not report.slower or not report.latency:
        return ""
    told = ", ".join(
        f"{one.operator} {one.ms:.3g} ms (source {one.source_ms:.3g} ms)" for one in report.slower
    )
    return (
        f"{report.latency[0].ratio:.2f} times as slow as the source on this machine. By "
        f"onnxruntime's profiler, per call: {told}."
    )


def format_quality(report: Report) -> str:
    """Return the accuracy, or without labels the closeness to the source: ``94.60 %``."""
    if report.accuracy is not None:
        return records.format_score(report.accuracy.value, report.accuracy.unit)
    if report.fidelity is not None:
        return report.fidelity.text
    return "-"


def output_cells(report: Report) -> list[tuple[str, str, str]]:
    """Return each judged output: its name, its kind, and what was measured with its intervals."""
    found: list[tuple[str, str, str]] = []
    for output in () if report.fidelity is None else report.fidelity.outputs:
        shown = [f"NaN or infinite in {output.broken} rows"] if output.broken else []
        for name, value in output.measures.items():
            measure, interval = records.MEASURES[name], output.intervals.get(name)
            shown.append(f"{name} {measure.show(value)}")
            if interval is not None:
                ends = f"[{measure.show(interval.low)}, {measure.show(interval.high)}]"
                shown[-1] += f" {ends}{_level(interval)}"
        found.append((output.output, output.kind, ", ".join(shown)))
    return found


def trial_rows(trials: Iterable[Trial]) -> list[dict[str, Any]]:
    """Return one row per trial: what was tried and what came of it; None where not measured."""
    return [_trial_row(trial) for trial in trials]


def _trial_row(trial: Trial) -> dict[str, Any]:
    row: dict[str, Any] = {
        "trial": trial.number,
        "recipe": trial.recipe.label,
        "state": trial.state,
        "rate": None,
        "size_bytes": None,
        "accuracy": None,
        "accuracy_drop": None,
        "drop_low": None,
        "drop_high": None,
        "fidelity": None,
        "agreement": None,
        "kl": None,
        "latency_p50_ms": None,
        "latency_ratio": None,
        "entropy": None,
        "error": trial.error,
    }
    if trial.variant is None:
        return row
    report = trial.variant.report
    row |= {"rate": report.rate, "size_bytes": report.size_bytes, "entropy": report.entropy}
    if (accuracy := report.accuracy) is not None:
        row |= {
            "accuracy": accuracy.value,
            "accuracy_drop": accuracy.drop,
            "drop_low": accuracy.drop_interval.low,
            "drop_high": accuracy.drop_interval.high,
        }
    if report.fidelity is not None:
        row |= {
            "fidelity": report.fidelity.quality,
            "agreement": report.fidelity.agreement,
            "kl": report.fidelity.kl,
        }
    if report.latency:
        row["latency_p50_ms"] = report.latency[0].p50
        row["latency_ratio"] = report.latency[0].ratio
    return row


def layer_rows(report: Report) -> list[dict[str, Any]]:
    """Return one row per weight tensor; a high rate shows a redundant layer."""
    return [
        {
            "layer": layer.name,
            "shape": "x".join(map(str, layer.shape)),
            "dtype": layer.dtype,
            "encoding": layer.encoding,
            "source_bytes": layer.source_bytes,
            "packed_bytes": layer.packed_bytes,
            "rate": round(layer.rate, 3),
            "sparsity": round(layer.sparsity, 4),
            "distinct": layer.distinct,
            "entropy_bits": round(layer.entropy, 4),
            "spent_bits": round(layer.bits_spent, 4),
            "redundancy_bits": round(layer.redundancy, 4),
        }
        for layer in report.layers
    ]


def markdown_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table; every column after the first is right-aligned."""
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', '/') for cell in line)} |" for line in lines)


def front_markdown(trials: Iterable[Trial], wins: Mapping[str, Sequence[str]] | None = None) -> str:
    """Return the variants as a Markdown table, smallest first.

    Args:
        trials: the trials to list, those without a variant are left out.
        wins: names of the targets that a variant won, by the variant's key.
    """
    variants = [trial.variant for trial in trials if trial.variant is not None]
    variants.sort(key=lambda variant: (variant.report.size_bytes, variant.key))
    drop = drop_head(variant.report for variant in variants)
    head = ["variant", "rate", "accuracy", drop, "size", "latency"]
    rows = [_front_row(variant) for variant in variants]
    if wins:
        head.append("won")
        rows = [
            [*row, ", ".join(wins.get(variant.key, ()))]
            for row, variant in zip(rows, variants, strict=True)
        ]
    return markdown_table(head, rows)


def _front_row(variant: Variant) -> list[str]:
    report = variant.report
    return [
        variant.recipe.label,
        f"{report.rate:.1f}x",
        format_quality(report),
        format_drop(report),
        format_bytes(report.size_bytes),
        format_latency(report),
    ]


def stage_cells(stage: StageReport) -> tuple[str, ...]:
    """Return a stage for people: name, bytes, rate, sparsity, entropy."""
    return (
        stage.name,
        f"{stage.bytes:,}",
        f"{stage.rate:.2f}x",
        f"{100 * stage.sparsity:.1f} %",
        f"{stage.entropy:.3f}",
    )


def stage_markdown(report: Report) -> str:
    """Return the stages (source, pruned, + shared, + Huffman …) as a Markdown table."""
    head = ["stage", "bytes", "rate", "sparsity", "entropy, bits/weight"]
    return markdown_table(head, (stage_cells(stage) for stage in report.stages))
