"""What a registered version says about its variant, in tags: written and read back here."""

import json
import math
from collections.abc import Mapping
from dataclasses import replace

from mlflow_compress.base.json_text import parse_json
from mlflow_compress.records import (
    Recipe,
    Report,
    Variant,
    digest_of,
    format_change,
    format_score,
    from_dict,
    to_dict,
)
from mlflow_compress.targets import format_size
from mlflow_compress.tracking.names import (
    DIGEST,
    KEY,
    MODEL_URI,
    PREFIX,
    QUARANTINE,
    RECIPE_JSON,
    REPORT,
    RUN_ID,
    SOURCE,
)

__all__ = [
    "describe",
    "from_tags",
    "quarantine_of",
    "rewrites",
    "to_tags",
    "with_measurements",
    "with_quarantines",
]

# What decides, beside the numbers that are shown: some tags stay as the version was made with,
# the others are rewritten when the variant is registered again.
_FIXED = (KEY, RECIPE_JSON, MODEL_URI, RUN_ID)
_REWRITTEN = (SOURCE, REPORT)
_ANEW = "delete the version and run the job again, which registers the variant anew"
# MLflow takes tag values up to 100,000 characters and descriptions up to 5,000.
_DESCRIPTION_LIMIT = 5000


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
        fidelity = {
            "agreement": report.fidelity.agreement,
            "kl": report.fidelity.kl,
            "fidelity": report.fidelity.score,
        }
        tags |= {name: _number(value) for name, value in fidelity.items() if value is not None}
    if report.latency:
        tags["latency_p50_ms"] = _number(report.latency[0].p50)
    if report.memory_bytes is not None:
        tags["memory_bytes"] = _number(report.memory_bytes)
    return {PREFIX + name: value for name, value in tags.items()}


def to_tags(variant: Variant) -> dict[str, str]:
    """Return every tag of a version; the per-layer table stays with the run."""
    tags = {
        KEY: variant.key,
        MODEL_URI: variant.model_uri,
        PREFIX + "recipe": variant.recipe.label,
        SOURCE: variant.source,
        RUN_ID: variant.run_id,
        RECIPE_JSON: variant.recipe.to_json(),
        REPORT: json.dumps(to_dict(replace(variant.report, layers=())), sort_keys=True),
        **_shown(variant.report),
    }
    return tags | {DIGEST: ",".join(_digest(tags, tag) for tag in _REWRITTEN)}


def _digest(tags: Mapping[str, str], tag: str) -> str:
    """Return the digest of one tag, together with those that are never rewritten.

    It notices hands; it is no signature, as whoever edits a tag can make it anew.

    A version is made with ``compress.digest``, which has the digest of each rewritten tag. Before
    one of them is rewritten, the digest of its new text goes into a tag of its own,
    ``compress.digest.<first 16 digits>``; no digest is ever taken away. A version can be read
    when the digest of each rewritten tag is among those it has. So it can be read after every
    single write, in whatever order jobs that run at once make theirs: a text is only written
    after its digest, which stays, and each tag is judged apart from the other. One digest that
    is replaced would have to be read before it is written, which two jobs can do in step. The
    price is that a hand which puts an earlier text of this project back goes unnoticed.

    A number that is shown needs no digest as long as the report says it; one that is added later
    has one, for two jobs may add different ones and leave the number of the one beside the report
    of the other.
    """
    return digest_of([tag, *(tags.get(name, "") for name in (tag, *_FIXED))])


def _known_digests(tags: Mapping[str, str]) -> set[str]:
    later = {text for name, text in tags.items() if name.startswith(f"{DIGEST}.")}
    return later | set(tags.get(DIGEST, "").split(","))


def _check_digests(tags: Mapping[str, str]) -> None:
    """Raise ValueError, one line, when a hand was on the tags that decide."""
    if not tags.get(DIGEST):
        raise ValueError(f"tag {DIGEST} is missing; {_ANEW}")
    known = _known_digests(tags)
    edited = [tag for tag in _REWRITTEN if _digest(tags, tag) not in known]
    if len(edited) == 1:
        raise ValueError(f"tag {edited[0]} was edited; put it back, or {_ANEW}")
    if edited:
        either = ", ".join((*_FIXED, *_REWRITTEN))
        raise ValueError(
            f"one of the tags {either} or {DIGEST} was edited; put it back, or {_ANEW}"
        )


def rewrites(tags: Mapping[str, str], known: Variant, merged: Variant) -> list[tuple[str, str]]:
    """Return which tags to write, in which order, for a variant that has more to say.

    Whatever part of it was done, the version can be read: see :func:`_digest` for what decides;
    the report comes last, as tags beyond what it says are no contradiction.

    Args:
        tags: the version's tags as they are.
        known: what they say.
        merged: what they shall say; it differs in source and report alone.
    """
    before, after, shown = to_tags(known), to_tags(merged), _shown(merged.report)
    stands = before | {tag: tags[tag] for tag in shown if tag in tags}
    changed = [tag for tag in after if stands.get(tag) != after[tag] and tag != DIGEST]
    writes = []
    for tag in sorted(changed, key=lambda tag: tag == REPORT):
        digest = _digest({**tags, tag: after[tag]}, tag)
        writes += [(f"{DIGEST}.{digest[:16]}", digest), (tag, after[tag])]
    return writes


def from_tags(tags: Mapping[str, str], version: int) -> Variant:
    """Rebuild a variant from its version's tags.

    Args:
        tags: the tags of one registered version.
        version: its number.

    Raises:
        ValueError: one line, when a tag is missing, broken, was edited, or says something else
            than the report that was stored with it.
    """
    for needed in (KEY, RECIPE_JSON, REPORT):
        if not tags.get(needed):
            raise ValueError(f"tag {needed} is missing")
    try:
        recipe = from_dict(Recipe, parse_json(tags[RECIPE_JSON]))
        report = from_dict(Report, parse_json(tags[REPORT]))
    except ValueError as error:
        raise ValueError(f"its recipe or report cannot be read: {error}") from None
    known = _known_digests(tags)
    for name, value in _shown(report).items():
        if tags.get(name) != value and _digest(tags, name) not in known:
            said = tags.get(name, "nothing")
            raise ValueError(f"tag {name} says {said}, the stored report says {value}")
    _check_digests(tags)
    return Variant(
        key=tags[KEY],
        recipe=recipe,
        report=report,
        source=tags.get(SOURCE, ""),
        model_uri=tags.get(MODEL_URI, ""),
        run_id=tags.get(RUN_ID, ""),
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
    timed, weighed = ({one.place for one in them} for them in (known.latency, known.memory))
    return replace(
        known,
        latency=(*known.latency, *(one for one in new.latency if one.place not in timed)),
        memory=(*known.memory, *(one for one in new.memory if one.place not in weighed)),
        memory_bytes=new.memory_bytes if known.memory_bytes is None else known.memory_bytes,
        needs=new.needs if known.needs is None else known.needs,
    )


def describe(variant: Variant) -> str:
    """Return a version's description: a plain first line, then a Markdown table."""
    report = variant.report
    first = f"{report.rate:.1f}x smaller ({format_size(report.size_bytes)})"
    if report.accuracy is not None:
        accuracy = report.accuracy
        value = format_score(accuracy.value, accuracy.unit)
        first += f", {accuracy.metric} {value} (drop {format_change(accuracy.drop, accuracy.unit)})"
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
