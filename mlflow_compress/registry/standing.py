"""How the targets of a registered model stand, and how they came to that."""

import math
from dataclasses import dataclass
from typing import Any

from mlflow_compress.records import Latency, Place, Report
from mlflow_compress.registry.decisions import EMULATED, ROLLED_BACK, DecisionLog, LoggedDecision
from mlflow_compress.registry.known import existing, known_targets
from mlflow_compress.registry.operations import newest_waiting
from mlflow_compress.registry.variants import RegistryState
from mlflow_compress.targets.profile import PREVIOUS
from mlflow_compress.tracking.names import ALIAS_TAG, QUARANTINE, read_number
from mlflow_compress.tracking.patience import PATIENCE, patiently

__all__ = ["TargetStatus", "history", "standing", "status"]


@dataclass(frozen=True)
class TargetStatus:
    """How one target stands.

    Attributes:
        target: its name.
        version: where its alias is, None when there is none.
        recipe: label of that version's recipe, empty when its tags cannot be read.
        rate: compression rate.
        accuracy: accuracy, None without labels.
        accuracy_unit: its unit, as :class:`~mlflow_compress.records.Accuracy` names it.
        fidelity: closeness to the source, 1 being its own; None where it was not measured.
        fidelity_text: the same as it is shown, of the output that is furthest off.
        latency_ms: median milliseconds where the target is measured, None when not measured.
        latency_on: that place, with ``(emulated)`` where this machine stands for the device.
        since_ms: when the decision was made that put it there, None when it was none of ours.
        run_id: the run of that decision.
        reason: its reason.
        previous: the version that a rollback goes to.
        quarantined: versions that are kept from this target.
        waiting: the version that waits for approval, or None.
        by_hand: whether something other than promotion moved or removed the alias.
        deleted: the version that promotion had put the alias on, when it was deleted and took
            the alias with it: the next promotion decides anew.
        problem: why the version cannot be trusted, or nothing.
    """

    target: str
    version: int | None
    recipe: str = ""
    rate: float | None = None
    accuracy: float | None = None
    accuracy_unit: str = "share"
    fidelity: float | None = None
    fidelity_text: str = ""
    latency_ms: float | None = None
    latency_on: str = ""
    since_ms: int | None = None
    run_id: str = ""
    reason: str = ""
    previous: int | None = None
    quarantined: tuple[int, ...] = ()
    waiting: int | None = None
    by_hand: bool = False
    deleted: int | None = None
    problem: str = ""


def history(
    client: Any, name: str, target: str, *, patience: float = PATIENCE
) -> list[LoggedDecision]:
    """Return every decision for a target with its reason, newest first.

    Raises:
        UnreachableError: the server does not answer.
    """
    log = DecisionLog(client, name)
    return patiently(f"read the history of {target!r}", lambda: log.read(target), patience)


def status(client: Any, name: str, *, patience: float = PATIENCE) -> list[TargetStatus]:
    """Return how each target of a registered model stands, by name.

    Raises:
        ConfigError: there is no such registered model.
        UnreachableError: the server does not answer.
    """
    state = existing(client, name, patience)
    return [one for one, _ in standing(client, state, patience=patience)]


def standing(
    client: Any, state: RegistryState, *, patience: float = PATIENCE
) -> list[tuple[TargetStatus, list[LoggedDecision]]]:
    """Return how each target stands, and its history, newest first.

    Raises:
        UnreachableError: the server does not answer.
    """
    log = DecisionLog(client, state.name)
    asked = patiently("look for what waits for approval", log.waiting_targets, patience)
    found = []
    for target in sorted(known_targets(state) | asked):
        known = history(client, state.name, target, patience=patience)
        found.append((_status_of(state, target, known), known))
    return found


def _status_of(state: RegistryState, target: str, known: list[LoggedDecision]) -> TargetStatus:
    version = state.aliases.get(target)
    variant = state.variant(version)
    moved = (d for d in known if d.outcome in ("promoted", ROLLED_BACK))
    latest = next(moved, None)
    ours = latest if latest is not None and latest.version == version else None
    asked = newest_waiting(known)
    problem = next(
        (p for p in state.problems if p.startswith(f"{state.name} version {version} ")), ""
    )
    report = variant.report if variant is not None else None
    fidelity = report.fidelity if report is not None else None
    place = next((decision for decision in known if decision.measured_on), None)
    latency = _latency(report, place) if report else None
    expected = state.tags.get(ALIAS_TAG + target, "")
    # MLflow takes the aliases off a version that is deleted; nobody's hand was on this one.
    lost = read_number(expected) if version is None else None
    deleted = lost if lost not in state.version_tags else None
    return TargetStatus(
        target=target,
        version=version,
        recipe=variant.recipe.label if variant is not None else "",
        rate=report.rate if report else None,
        accuracy=report.accuracy.value if report and report.accuracy else None,
        accuracy_unit=report.accuracy.unit if report and report.accuracy else "share",
        fidelity=fidelity.quality if fidelity and not math.isnan(fidelity.quality) else None,
        fidelity_text=fidelity.text if fidelity else "",
        latency_ms=latency.p50 if latency else None,
        latency_on=place.measured_on if latency and place else "",
        since_ms=ours.start_ms if ours else None,
        run_id=ours.run_id if ours else "",
        reason=ours.reason if ours else "",
        previous=state.aliases.get(target + PREVIOUS),
        quarantined=tuple(
            sorted(v for v, tags in state.version_tags.items() if QUARANTINE + target in tags)
        ),
        waiting=asked.version if asked else None,
        by_hand=deleted is None and str(version or "") != expected,
        deleted=deleted,
        problem=problem,
    )


def _latency(report: Report, place: LoggedDecision | None) -> Latency | None:
    """Return the latency that counts for a target, by what its last decision says of it."""
    if place is None:
        return report.latency[0] if report.latency else None
    return report.latency_at(Place(place.measured_on.removesuffix(EMULATED), place.threads))
