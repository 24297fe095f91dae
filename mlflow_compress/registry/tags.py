"""What a registered version says about its variant, in tags: written and read back here."""

import json
import math
from collections.abc import Mapping
from dataclasses import replace

from mlflow_compress.errors import ConfigError
from mlflow_compress.records import Recipe, Report, Variant, digest_of, from_dict, to_dict
from mlflow_compress.targets import format_size

__all__ = [
    "ALIAS_TAG",
    "GAP",
    "KEY",
    "MODEL_URI",
    "PREFIX",
    "QUARANTINE",
    "REPORT",
    "SOURCE",
    "VARIANTS_TAG",
    "describe",
    "from_tags",
    "quarantine_of",
    "quoted",
    "to_tags",
    "with_measurements",
    "with_quarantines",
]

PREFIX = "compress."
KEY = PREFIX + "key"
MODEL_URI = PREFIX + "model_uri"
SOURCE = PREFIX + "source"
GAP = PREFIX + "gap."
QUARANTINE = PREFIX + "quarantine."
"""Tag of a version, per target; see :func:`quarantine_of` for the one that outlives it."""

ALIAS_TAG = PREFIX + "promoted."
"""Tag of the registered model, per target: the version that promotion last put the alias on."""

VARIANTS_TAG = PREFIX + "variants"
"""Tag of a registered model that holds variants."""

REPORT = PREFIX + "report"
_RECIPE = PREFIX + "recipe_json"
# MLflow takes tag values up to 100,000 characters and descriptions up to 5,000.
_DESCRIPTION_LIMIT = 5000


def quoted(text: str) -> str:
    """Return ``text`` as MLflow's search filters take it.

    Raises:
        ConfigError: it has both kinds of quotes, which no filter can say.
    """
    if "'" not in text:
        return f"'{text}'"
    if '"' not in text:
        return f'"{text}"'
    raise ConfigError(f"{text!r} has both kinds of quotes, which MLflow cannot search for")


def _number(value: float) -> str:
    return str(value) if isinstance(value, int) else f"{value:.6g}"


def _shown(report: Report) -> dict[str, str]:
    """The numbers that people read and filter by; all of them are in the report's JSON too."""
    tags = {
        "rate": _number(report.rate),
        "size_bytes": _number(report.size_bytes),
        "sha256": report.sha256,
    }
    if report.accuracy is not None:
        tags["accuracy"] = _number(report.accuracy.value)
        tags["accuracy_drop"] = _number(report.accuracy.drop)
        tags["accuracy_drop_high"] = _number(report.accuracy.drop_interval.high)
    if report.fidelity is not None:
        tags["agreement"] = _number(report.fidelity.agreement)
        tags["kl"] = _number(report.fidelity.kl)
    if report.latency:
        tags["latency_p50_ms"] = _number(report.latency[0].p50)
    if report.memory_bytes is not None:
        tags["memory_bytes"] = _number(report.memory_bytes)
    return {PREFIX + name: value for name, value in tags.items()}


def to_tags(variant: Variant) -> dict[str, str]:
    """Return every tag of a version; the per-layer table stays with the run."""
    return {
        KEY: variant.key,
        MODEL_URI: variant.model_uri,
        PREFIX + "recipe": variant.recipe.label,
        SOURCE: variant.source,
        PREFIX + "run_id": variant.run_id,
        _RECIPE: variant.recipe.to_json(),
        REPORT: json.dumps(to_dict(replace(variant.report, layers=())), sort_keys=True),
        **_shown(variant.report),
    }


def from_tags(tags: Mapping[str, str], version: int) -> Variant:
    """Rebuild a variant from its version's tags.

    Args:
        tags: the tags of one registered version.
        version: its number.

    Raises:
        ValueError: one line, when a tag is missing, broken, or says something else than the
            report that was stored with it.
    """
    for needed in (KEY, _RECIPE, REPORT):
        if not tags.get(needed):
            raise ValueError(f"tag {needed} is missing")
    try:
        recipe = from_dict(Recipe, json.loads(tags[_RECIPE]))
        report = from_dict(Report, json.loads(tags[REPORT]))
    except ValueError as error:
        raise ValueError(f"its recipe or report cannot be read: {error}") from None
    for name, value in _shown(report).items():
        if tags.get(name) != value:
            said = tags.get(name, "nothing")
            raise ValueError(f"tag {name} says {said}, the stored report says {value}")
    return Variant(
        key=tags[KEY],
        recipe=recipe,
        report=report,
        source=tags.get(SOURCE, ""),
        model_uri=tags.get(MODEL_URI, ""),
        run_id=tags.get(PREFIX + "run_id", ""),
        version=version,
        quarantined=frozenset(
            name.removeprefix(QUARANTINE) for name in tags if name.startswith(QUARANTINE)
        ),
    )


def quarantine_of(key: str, target: str) -> str:
    """Return the tag of the registered model that keeps a variant from a target.

    A variant outlives its version: one that was deleted is made again from the same run. So a
    quarantine is also written where the version's end does not take it along.

    Args:
        key: the variant's key.
        target: the target's name; it has no dot, so that what follows it is told apart.
    """
    return f"{QUARANTINE}{target}.{_short(key)}"


def _short(key: str) -> str:
    return digest_of(key)[:16]


def with_quarantines(tags: Mapping[str, str], of_model: Mapping[str, str]) -> dict[str, str]:
    """Return a version's tags with the quarantines that the registered model has for its variant.

    Args:
        tags: of the version.
        of_model: the tags of the registered model.
    """
    end = f".{_short(tags.get(KEY, ''))}"
    held = {
        name.removesuffix(end): text
        for name, text in of_model.items()
        if name.startswith(QUARANTINE) and name.endswith(end)
    }
    return {**held, **tags}


def with_measurements(known: Report, new: Report) -> Report:
    """Return ``known`` with what only ``new`` has been measured for; numbers there stay."""
    timed = {(one.device, one.threads) for one in known.latency}
    weighed = {(one.device, one.threads) for one in known.memory}
    return replace(
        known,
        latency=(
            *known.latency,
            *(one for one in new.latency if (one.device, one.threads) not in timed),
        ),
        memory=(
            *known.memory,
            *(one for one in new.memory if (one.device, one.threads) not in weighed),
        ),
        memory_bytes=new.memory_bytes if known.memory_bytes is None else known.memory_bytes,
        needs=new.needs if known.needs is None else known.needs,
    )


def describe(variant: Variant) -> str:
    """Return a version's description: a plain first line, then a Markdown table."""
    report = variant.report
    first = f"{report.rate:.1f}x smaller ({format_size(report.size_bytes)})"
    if report.accuracy is not None:
        accuracy = report.accuracy
        drop = 100 * accuracy.drop
        first += f", {accuracy.metric} {accuracy.value:.4f} (drop {drop:.2f} points)"
    rows = [
        ("Source", variant.source or "unknown"),
        ("Recipe", variant.recipe.label),
        ("Profile", variant.recipe.profile),
        ("Size", f"{report.size_bytes} bytes, source {report.source_bytes} bytes"),
        ("Entropy", f"{report.entropy:.3f} bits per weight"),
        ("sha256", f"`{report.sha256}`"),
    ]
    for latency in report.latency:
        if math.isfinite(latency.p50):
            text = f"{latency.p50:.4g} ms, source {latency.source_p50:.4g} ms"
            rows.append((f"Latency, {latency.device}, {latency.threads} thread(s)", text))
    table = "\n".join(f"| {name} | {value} |" for name, value in rows)
    text = f"{first}, {variant.recipe.label}\n\n| | |\n|---|---|\n{table}\n"
    return text[:_DESCRIPTION_LIMIT]
