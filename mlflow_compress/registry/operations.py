"""What an operator does to a target: roll back, quarantine, approve, reject."""

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeVar

from mlflow.tracking.context.registry import resolve_tags

from mlflow_compress.errors import ConfigError
from mlflow_compress.records import digest_of
from mlflow_compress.registry.decisions import (
    PENDING,
    ROLLED_BACK,
    DecisionLog,
    LoggedDecision,
)
from mlflow_compress.registry.descriptions import refresh
from mlflow_compress.registry.known import existing, require_target
from mlflow_compress.registry.promotion import decision_log, move_alias
from mlflow_compress.registry.tags import quarantine_of
from mlflow_compress.registry.variants import RegistryState
from mlflow_compress.targets.profile import PREVIOUS
from mlflow_compress.tracking.names import ALIAS_TAG, KEY, QUARANTINE
from mlflow_compress.tracking.patience import PATIENCE, patiently

__all__ = [
    "approve",
    "existing",
    "newest_waiting",
    "quarantine",
    "reject",
    "rollback",
    "unquarantine",
]

Result = TypeVar("Result")

# Tags of a registered model end here in MLflow's database; those of versions are longer.
_TAG_LIMIT = 5000


def rollback(
    client: Any,
    name: str,
    target: str,
    to: int | None = None,
    *,
    why: str = "",
    patience: float = PATIENCE,
) -> LoggedDecision:
    """Put a target's alias back and keep the version it was on from coming back by itself.

    A rollback that was broken off is finished, whatever ``to`` says, as long as the alias is still
    on one of its two versions.

    Args:
        client: an ``MlflowClient``.
        name: the registered model.
        target: the target's name.
        to: the version to go back to; the one before the present by default.
        why: for the record.
        patience: seconds to retry each step for.

    Returns:
        The decision as it was logged.

    Raises:
        ConfigError: there is no alias, or nothing to go back to; or what was begun cannot be
            finished, and is given up.
        UnreachableError: the server does not answer.
    """
    do = _doer(f"roll back {target!r} of {name!r}", patience)
    state = existing(client, name, patience)
    log = do(lambda: decision_log(client, state))
    open_ones = do(lambda: log.read_open(target))
    begun = next((one for one in open_ones if one.outcome == ROLLED_BACK), None)
    if begun is None:
        begun = do(lambda: _begin_rollback(log, state, target, to, why))
    else:
        begun = do(lambda one=begun: log.take_over(one))  # type: ignore[misc]
    bad, goal = begun.incumbent, begun.version
    current = state.aliases.get(target)
    if current not in (bad, goal):
        do(lambda: log.close(begun.run_id, "KILLED"))
        raise ConfigError(
            f"{begun.reason}: this was broken off, alias {target!r} has moved to version {current} "
            "since, and it is given up now; say rollback again if that version is bad too"
        )
    if bad is not None:
        do(lambda: _set_quarantine(client, name, bad, target, begun.reason))
    do(lambda: move_alias(client, name, target, goal, previous=None))
    _require_moved(client, log, begun, name, patience, do)
    earlier = _before(do(lambda: log.read(target)), goal, state, target)
    do(lambda: _set_previous(client, name, target, earlier))
    do(lambda: log.describe(begun.run_id, begun))
    _describe(client, begun, name, patience, do)
    do(lambda: log.close(begun.run_id))
    return begun


def _require_moved(
    client: Any,
    log: DecisionLog,
    begun: LoggedDecision,
    name: str,
    patience: float,
    do: Callable[[Callable[[], Any]], Any],
) -> None:
    """Look again whether the alias is where it was put; else give the decision up.

    The version may have been deleted, or quarantined, since it was looked at.
    """
    state, target, goal = existing(client, name, patience), begun.target, begun.version or 0
    current = state.aliases.get(target)
    if goal not in state.version_tags:
        problem = "is gone"
    elif begun.outcome != ROLLED_BACK and QUARANTINE + target in state.version_tags[goal]:
        problem = "is quarantined"
        do(lambda: _put_back(client, name, target, begun.incumbent))
        current = begun.incumbent
    else:
        return
    tag, text = ALIAS_TAG + target, str(current or "")
    do(lambda: client.set_registered_model_tag(name, tag, text))
    do(lambda: log.close(begun.run_id, "KILLED"))
    where = f"is on version {current}" if current is not None else "is not set"
    raise ConfigError(
        f"version {goal} of {name!r} {problem}: alias {target!r} {where}; "
        "name another version with rollback --to"
    )


def _put_back(client: Any, name: str, target: str, version: int | None) -> None:
    if version is None:
        client.delete_registered_model_alias(name, target)
    else:
        client.set_registered_model_alias(name, target, str(version))


def _describe(
    client: Any, done: LoggedDecision, name: str, patience: float, do: Callable[[Any], Any]
) -> None:
    """Bring the registry's descriptions up to date with what was just done."""
    outcome = "promoted" if done.outcome == PENDING else done.outcome
    refresh(client, existing(client, name, patience), done.target, outcome, done.reason, do)


def _begin_rollback(
    log: DecisionLog,
    state: RegistryState,
    target: str,
    to: int | None,
    why: str,
) -> LoggedDecision:
    current = state.aliases.get(target)
    if current is None:
        require_target(state, target)
        raise ConfigError(f"target {target!r} has no version of {state.name!r} to roll back from")
    goal = to if to is not None else state.aliases.get(target + PREVIOUS)
    if to is None and not (goal != current and _may_be(state, goal, target)):
        # The alias's own way back leads to what was quarantined or deleted since.
        goal = _before(log.read(target), current, state, target) or goal
    if goal is None:
        raise ConfigError(
            f"target {target!r}: no version before {current} is known; name one with --to"
        )
    if goal == current:
        raise ConfigError(f"target {target!r} is on version {goal} already")
    if goal not in state.version_tags:
        known = ", ".join(map(str, sorted(state.version_tags)))
        raise ConfigError(f"{state.name!r} has no version {goal} (versions: {known})")
    if QUARANTINE + target in state.version_tags[goal]:
        raise ConfigError(
            f"version {goal} is quarantined for {target!r} itself: unquarantine it first"
        )
    reason = f"rolled back from version {current} to version {goal}"
    entry = LoggedDecision(
        run_id="",
        status="RUNNING",
        start_ms=int(time.time() * 1000),
        target=target,
        outcome=ROLLED_BACK,
        version=goal,
        incumbent=current,
        reason=f"{reason}: {why}" if why else reason,
        evidence=digest_of([ROLLED_BACK, target, goal, current, time.time()]),
    )
    run_id = log.create(entry)
    return next(one for one in log.read_open(target) if one.run_id == run_id)


def _before(
    known: list[LoggedDecision],
    version: int | None,
    state: RegistryState,
    target: str,
    seen: tuple[int, ...] = (),
) -> int | None:
    """Return what the alias was on before ``version``; of those that may be, the nearest.

    Args:
        known: the target's decisions, newest first.
        version: the version to go back from.
        state: what the registered model holds.
        target: the target's name.
        seen: versions that were gone back from already.
    """
    for decision in known:
        earlier = decision.incumbent
        if (decision.outcome, decision.version) != ("promoted", version):
            continue
        if earlier is None or earlier == version or earlier in seen:
            continue
        if _may_be(state, earlier, target):
            return earlier
        further = _before(known, earlier, state, target, (*seen, version or 0))
        if further is not None:
            return further
    return None


def _may_be(state: RegistryState, version: int | None, target: str) -> bool:
    tags = state.version_tags.get(version or 0)
    return tags is not None and QUARANTINE + target not in tags


def _set_previous(client: Any, name: str, target: str, version: int | None) -> None:
    """Point the way back to before; it must not lead to what was just rolled back."""
    alias = target + PREVIOUS
    if version is not None:
        client.set_registered_model_alias(name, alias, str(version))
    elif alias in client.get_registered_model(name).aliases:
        client.delete_registered_model_alias(name, alias)


def quarantine(
    client: Any, name: str, version: int, target: str, *, why: str = "", patience: float = PATIENCE
) -> None:
    """Keep a version from being promoted to a target until it is released.

    The quarantine is the variant's: it holds also when the version is deleted and made again.

    Raises:
        ConfigError: there is no such version of this project.
        UnreachableError: the server does not answer.
    """
    _require_version(existing(client, name, patience), version)
    do = _doer(f"quarantine version {version} of {name!r}", patience)
    do(lambda: _set_quarantine(client, name, version, target, why))


def unquarantine(
    client: Any, name: str, version: int, target: str, *, patience: float = PATIENCE
) -> None:
    """Let a version be promoted to a target again.

    Raises:
        ConfigError: there is no such version, or it is not quarantined for this target.
        UnreachableError: the server does not answer.
    """
    state = existing(client, name, patience)
    _require_version(state, version)
    if QUARANTINE + target not in state.version_tags[version]:
        raise ConfigError(f"version {version} of {name!r} is not quarantined for {target!r}")
    do = _doer(f"release version {version} of {name!r}", patience)
    # Either tag alone keeps the version out: broken off in between, it stays out, and this can be
    # done again. Deleting a tag that is not there is no error.
    do(lambda: client.delete_model_version_tag(name, str(version), QUARANTINE + target))
    lasting = quarantine_of(state.version_tags[version].get(KEY, ""), target)
    do(lambda: client.delete_registered_model_tag(name, lasting))


def _set_quarantine(client: Any, name: str, version: int, target: str, why: str) -> None:
    now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    text = f"{now} {why}".strip()
    key = client.get_model_version(name, str(version)).tags.get(KEY)
    if key:
        # The one that lasts comes first: broken off in between, the version is out already.
        client.set_registered_model_tag(name, quarantine_of(key, target), text[:_TAG_LIMIT])
    client.set_model_version_tag(name, str(version), QUARANTINE + target, text)


def approve(client: Any, name: str, target: str, *, patience: float = PATIENCE) -> LoggedDecision:
    """Carry out the promotion that waits for a target.

    Returns:
        The promotion that was waiting.

    Raises:
        ConfigError: nothing waits, or the registry is no longer as it was when it was asked for;
            what was decided since, and a quarantine at the same moment, count too.
        UnreachableError: the server does not answer.
    """
    do = _doer(f"approve the promotion to {target!r} of {name!r}", patience)
    state = existing(client, name, patience)
    log = do(lambda: decision_log(client, state))
    asked = do(lambda: _waiting(log, name, target))
    current = state.aliases.get(target)
    if current not in (asked.incumbent, asked.version):
        raise ConfigError(
            f"alias {target!r} has moved to version {current} since the promotion to version "
            f"{asked.version} was asked for: reject it and decide again"
        )
    if state.variant(asked.version) is None:
        raise ConfigError(f"version {asked.version} of {name!r} is gone or was edited: reject it")
    if QUARANTINE + target in state.version_tags[asked.version or 0]:
        raise ConfigError(f"version {asked.version} is quarantined for {target!r}: reject it")
    run_id = do(lambda: _open_approved(log, asked))
    do(lambda: move_alias(client, name, target, asked.version, previous=asked.incumbent))
    _require_moved(client, log, replace(asked, run_id=run_id), name, patience, do)
    do(lambda: log.describe(run_id, replace(asked, outcome="promoted")))
    do(lambda: log.settle(asked.run_id, "approved"))
    _describe(client, asked, name, patience, do)
    do(lambda: log.close(run_id))
    return asked


def _open_approved(log: DecisionLog, asked: LoggedDecision) -> str:
    """Write the approved promotion down, unless an approval that broke off has done so."""
    for known in log.read_open(asked.target):
        if known.evidence == asked.evidence:
            return log.take_over(known).run_id
    reason = f"approved: {asked.reason}"
    entry = LoggedDecision(
        run_id="",
        status="RUNNING",
        start_ms=0,
        target=asked.target,
        outcome="promoted",
        version=asked.version,
        incumbent=asked.incumbent,
        reason=reason,
        evidence=asked.evidence,
        measured_on=asked.measured_on,
        threads=asked.threads,
    )
    return log.create(entry)


def reject(client: Any, name: str, target: str, *, patience: float = PATIENCE) -> LoggedDecision:
    """Turn down the promotion that waits for a target; the same one is not asked for again.

    Raises:
        ConfigError: nothing waits.
        UnreachableError: the server does not answer.
    """
    do = _doer(f"reject the promotion to {target!r} of {name!r}", patience)
    log = DecisionLog(client, name, tags=resolve_tags())
    asked = do(lambda: _waiting(log, name, target))
    do(lambda: log.settle(asked.run_id, "rejected"))
    return asked


def _waiting(log: DecisionLog, name: str, target: str) -> LoggedDecision:
    asked = newest_waiting(log.read(target))
    if asked is None:
        others = ", ".join(sorted(log.waiting_targets() - {target})) or "none"
        raise ConfigError(
            f"no promotion to {target!r} of {name!r} waits for approval (waiting: {others})"
        )
    return asked


def newest_waiting(known: list[LoggedDecision]) -> LoggedDecision | None:
    """Return the newest request that waits, when nothing else was decided since."""
    for decision in known:
        if decision.outcome == PENDING:
            return decision if decision.approval == "waiting" else None
        if decision.status == "FINISHED":
            return None
    return None


def _require_version(state: RegistryState, version: int) -> None:
    if version not in state.version_tags:
        known = ", ".join(map(str, sorted(state.version_tags))) or "none"
        raise ConfigError(f"{state.name!r} has no version {version} (versions: {known})")


def _doer(what: str, patience: float) -> Callable[[Callable[[], Result]], Result]:
    def do(call: Callable[[], Result]) -> Result:
        return patiently(what, call, patience)

    return do
