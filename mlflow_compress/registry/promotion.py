"""Decisions applied to the registry: the alias of a target is moved to the chosen version.

MLflow has no compare-and-set, so that two jobs can overwrite each other's alias. Each job
therefore reads everything, decides, writes only what differs, and reads again, until its own
decision finds nothing to change. A decision is written down as an open run before the alias is
moved: a job that dies in between leaves a note that the next one takes over.
"""

import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.tracking.context.registry import resolve_tags

from mlflow_compress.errors import CompressError
from mlflow_compress.records import Decision, Variant
from mlflow_compress.registry.decisions import (
    DecisionLog,
    LoggedDecision,
    evidence_digest,
    limits_digest,
)
from mlflow_compress.registry.descriptions import refresh
from mlflow_compress.registry.policy import decide
from mlflow_compress.registry.variants import RegistryState, read_state
from mlflow_compress.targets import Target
from mlflow_compress.targets.profile import PREVIOUS
from mlflow_compress.tracking.names import ALIAS_TAG, LIMITS_TAG, read_number
from mlflow_compress.tracking.patience import PATIENCE, patiently

__all__ = ["decision_log", "move_alias", "promote"]

# Each lost race costs one round; eight jobs at once need a few.
_ROUNDS = 50

Result = TypeVar("Result")
Rescore = Callable[[Variant], Variant]


def promote(  # noqa: PLR0913 - options of a command
    client: MlflowClient,
    name: str,
    targets: Sequence[Target],
    *,
    rows: str | None = None,
    rescore: Rescore | None = None,
    experiment: str | None = None,
    dry_run: bool = False,
    take_over: bool = False,
    require_approval: bool = False,
    patience: float = PATIENCE,
    missing: str = "",
) -> list[Decision]:
    """Decide for each target and move its alias, so that running it again changes nothing.

    Args:
        client: where the registry is.
        name: the registered model with the variants.
        targets: the edge targets.
        rows: digest of today's evaluation rows; numbers from other rows are stale.
        rescore: measures the incumbent on today's rows when its numbers are stale.
        experiment: name of the experiment for the decision runs; by default the one of the
            newest variant's run.
        dry_run: decide only, write nothing.
        take_over: decide also where an alias was moved by hand, which is left alone otherwise.
        require_approval: only ask for each promotion; ``operations.approve`` carries it out.
        patience: seconds to retry each step for.
        missing: why today's search made no variant, for decisions that find none.

    Returns:
        One decision per target, in the order given.

    Raises:
        CompressError: MLflow refuses, or the alias does not settle.
        UnreachableError: the server does not answer.
    """
    options = _Options(
        rows, rescore, experiment, dry_run, take_over, require_approval, patience, missing
    )
    job = _Promotion(client, name, options)
    return [job.settle(target) for target in targets]


@dataclass(frozen=True)
class _Options:
    """The keywords of :func:`promote`."""

    rows: str | None
    rescore: Rescore | None
    experiment: str | None
    dry_run: bool
    take_over: bool
    require_approval: bool
    patience: float
    missing: str


class _Promotion:
    """One job that promotes versions of one registered model."""

    def __init__(self, client: MlflowClient, name: str, options: _Options) -> None:
        self._client = client
        self._name = name
        self._options = options
        self._patience = options.patience
        self._rescored: dict[int, Variant] = {}
        self._log: DecisionLog | None = None

    def settle(self, target: Target) -> Decision:
        """Move one target's alias until there is nothing left to move."""
        first: RegistryState | None = None
        moved: Decision | None = None
        opened: list[str] = []
        for _ in range(_ROUNDS):
            state = read_state(self._client, self._name, patience=self._patience)
            first = first or state
            decision = self._decide(state, target)
            if self._options.dry_run:
                return decision
            self._say_limits(state, target)
            log = self._decision_log(state)
            if decision.outcome != "promoted":
                self._record(log, decision, target, state, opened)
                done = moved if moved and moved.version == decision.version else decision
                self._describe(state, done)
                return done
            if self._options.require_approval:
                return self._ask(log, decision, target, state)
            opened.append(self._open(log, decision, target, state))
            before = first.aliases.get(target.name)
            self._do(
                f"set alias {target.name!r} of {self._name!r} to version {decision.version}",
                lambda d=decision, b=before: move_alias(  # type: ignore[misc]
                    self._client, self._name, d.target, d.version, previous=b
                ),
            )
            moved = replace(decision, incumbent=before)
            # Jobs that collide should not collide again in step.
            time.sleep(random.uniform(0, 0.05))
        raise CompressError(
            f"alias {target.name!r} of {self._name!r} does not settle after {_ROUNDS} rounds: "
            "something else keeps moving it"
        )

    def _decide(self, state: RegistryState, target: Target) -> Decision:
        """Decide on a state, with what the pure policy cannot know: who moved the alias."""
        current = state.aliases.get(target.name)
        incumbent = self._today(state.variant(current))
        decision = decide(state.variants, target, incumbent, self._options.rows)
        if self._options.missing and decision.outcome == "none feasible":
            decision = replace(decision, reason=f"{decision.reason}; {self._options.missing}")
        by_hand = "" if self._options.take_over else self._moved_by_hand(state, target.name)
        if by_hand:
            return replace(
                decision, outcome="kept", version=current, incumbent=current, reason=by_hand
            )
        lost = _promoted(state, target.name)
        if current is None and lost is not None and lost not in state.version_tags:
            text = f"{decision.reason}; version {lost}, where the alias was, has been deleted"
            return replace(decision, reason=text)
        if current is None or incumbent is not None:
            return decision
        return replace(
            decision,
            incumbent=current,
            version=current if decision.version is None else decision.version,
            reason=f"{decision.reason}; {_unreadable(state, current)}",
        )

    def _today(self, incumbent: Variant | None) -> Variant | None:
        """Score the incumbent on today's rows when its numbers are of others, or of older rules."""
        if incumbent is None or self._options.rescore is None or self._options.rows is None:
            return incumbent
        fidelity = incumbent.report.fidelity
        scored = incumbent.report.accuracy or fidelity
        is_judged = fidelity is None or fidelity.is_whole
        if is_judged and scored is not None and scored.dataset.digest == self._options.rows:
            return incumbent
        version = incumbent.version or 0
        if version not in self._rescored:
            self._rescored[version] = self._options.rescore(incumbent)
        return self._rescored[version]

    def _moved_by_hand(self, state: RegistryState, target: str) -> str:
        """Say how the alias came to be elsewhere than promotion put it, or nothing.

        A job that died or is at work between its two writes leaves the same picture; its open
        decision tells it apart. Tag, alias and decisions are read apart, so that a picture
        counts only when it stays.
        """
        for attempt in range(3):
            current, expected = state.aliases.get(target), _promoted(state, target)
            deleted = current is None and expected not in state.version_tags
            if current == expected or deleted:
                return ""
            for known in self._open_decisions(target):
                halfway = known.version == expected and known.incumbent == current
                if known.version == current or halfway:
                    return ""
            if attempt < 2:
                time.sleep(0.1)
                state = read_state(self._client, self._name, patience=self._patience)
        now = f"is on version {current}" if current is not None else "was removed"
        before = f"promotion had put it on version {expected}" if expected else "not by promotion"
        return f"alias {target!r} {now} by hand ({before}) and is left alone until taken over"

    def _open_decisions(self, target: str) -> list[LoggedDecision]:
        log = DecisionLog(self._client, self._name)
        return self._do(f"read the decisions for {target!r}", lambda: log.read_open(target))

    def _open(
        self, log: DecisionLog, decision: Decision, target: Target, state: RegistryState
    ) -> str:
        what = f"log the decision for {target.name!r}"
        return self._do(what, lambda: log.open(decision, target, state.variants))

    def _ask(
        self, log: DecisionLog, decision: Decision, target: Target, state: RegistryState
    ) -> Decision:
        """Ask for a promotion, once; until it is approved the alias stays where it is."""
        what = f"ask for the promotion to {target.name!r}"
        asked = self._do(what, lambda: log.ask(decision, target, state.variants))
        told = {"waiting": "waits for approval", "approved": "was approved for another state"}
        said = told.get(asked.approval, "was rejected")
        reason = f"the promotion to version {decision.version} {said}: {decision.reason}"
        return replace(decision, outcome="kept", version=decision.incumbent, reason=reason)

    def _record(
        self,
        log: DecisionLog,
        decision: Decision,
        target: Target,
        state: RegistryState,
        opened: Sequence[str],
    ) -> None:
        """Close what led here, and note the decision unless it says what the last one said."""
        what = f"log the decision for {target.name!r}"
        evidence = evidence_digest(decision, target)
        current = state.aliases.get(target.name)
        if self._left_ahead(state, target.name):
            tag, text = ALIAS_TAG + target.name, str(current or "")
            self._do(what, lambda: self._client.set_registered_model_tag(self._name, tag, text))
        self._do(what, lambda: log.sweep(target.name, opened, evidence, current))
        self._do(what, lambda: log.note(decision, target, state.variants))

    def _left_ahead(self, state: RegistryState, target: str) -> bool:
        """Whether a job died between its two writes, and its version is not wanted any more.

        Nothing would tell that from an alias moved by hand once its open decision is closed.
        """
        current, told = state.aliases.get(target), _promoted(state, target)
        if told is None or told == current or (current is None and told not in state.version_tags):
            return False
        halfway = [
            known
            for known in self._open_decisions(target)
            if (known.version, known.incumbent) == (told, current)
        ]
        return bool(halfway) and all(known.abandoned for known in halfway)

    def _say_limits(self, state: RegistryState, target: Target) -> None:
        """Note the limits where only those may write who may promote."""
        tag, text = LIMITS_TAG + target.name, limits_digest(target)
        if state.exists and state.tags.get(tag) != text:
            what = f"note the limits of {target.name!r}"
            self._do(what, lambda: self._client.set_registered_model_tag(self._name, tag, text))

    def _describe(self, state: RegistryState, decision: Decision) -> None:
        """Bring the descriptions that people read in the registry up to date."""
        what = f"describe what {decision.target!r} of {self._name!r} is on"
        refresh(
            self._client,
            state,
            decision.target,
            decision.outcome,
            decision.reason,
            lambda call: self._do(what, call),
        )

    def _decision_log(self, state: RegistryState) -> DecisionLog:
        if self._log is None:
            self._log = self._do(
                "find the experiment for the decisions",
                lambda: decision_log(self._client, state, self._options.experiment),
            )
        return self._log

    def _do(self, what: str, call: Callable[[], Result]) -> Result:
        return patiently(what, call, self._patience)


def decision_log(
    client: MlflowClient, state: RegistryState, experiment: str | None = None
) -> DecisionLog:
    """Return the log that writes to the named experiment, or to the newest variant's."""
    name = experiment or state.name
    if experiment is None:
        for variant in reversed(state.variants):
            try:
                found_id = str(client.get_run(variant.run_id).info.experiment_id)
            except MlflowException as error:
                known = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE")
                if error.error_code not in known:
                    raise
            else:
                return DecisionLog(client, state.name, found_id, resolve_tags())
    found = client.get_experiment_by_name(name)
    experiment_id = found.experiment_id if found else client.create_experiment(name)
    return DecisionLog(client, state.name, str(experiment_id), resolve_tags())


def move_alias(
    client: MlflowClient, name: str, target: str, version: int | None, *, previous: int | None
) -> None:
    """Put a target's alias on a version, in the order that a crash can bear; safe to repeat.

    The tag that tells a hand-moved alias from a promoted one comes first, the way back second.
    A version that was deleted after it was read moves nothing: the caller must read again.
    """
    client.set_registered_model_tag(name, ALIAS_TAG + target, str(version))
    if previous is not None and previous != version:
        _set_alias(client, name, target + PREVIOUS, previous)
    _set_alias(client, name, target, version)


def _set_alias(client: MlflowClient, name: str, alias: str, version: int | None) -> None:
    try:
        client.set_registered_model_alias(name, alias, str(version))
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise


def _promoted(state: RegistryState, target: str) -> int | None:
    """Return where promotion last put the alias, by its own account."""
    return read_number(state.tags.get(ALIAS_TAG + target, ""))


def _unreadable(state: RegistryState, version: int) -> str:
    start = f"{state.name} version {version} "
    problem = next((one for one in state.problems if one.startswith(start)), None)
    if problem is not None:
        return problem
    return f"version {version}, where the alias is, was not made by this project"
