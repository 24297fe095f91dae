"""Decisions as runs: what was decided, on what evidence, for people and for programs."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from mlflow_compress.records import Decision, Gate, Variant, digest_of, to_dict
from mlflow_compress.targets import Target
from mlflow_compress.targets.profile import alias_problem, target_record, target_text
from mlflow_compress.tracking.experiments import experiments_of, name_experiment
from mlflow_compress.tracking.names import (
    APPROVAL,
    EVIDENCE,
    FINISHED_BY,
    INCUMBENT,
    KIND,
    MEASURED_ON,
    MODEL,
    OUTCOME,
    OWNER,
    REASON,
    SETTLED_BY,
    TARGET,
    THREADS,
    VERSION,
    quoted,
    read_number,
)
from mlflow_compress.tracking.owner import is_abandoned, owner
from mlflow_compress.tracking.pages import up_to

__all__ = [
    "PENDING",
    "ROLLED_BACK",
    "DecisionLog",
    "LoggedDecision",
    "evidence_digest",
    "limits_digest",
    "render",
]

EMULATED = " (emulated)"
"""Ends the place where a target was measured when this machine stands for another."""

PENDING = "pending"
ROLLED_BACK = "rolled back"

# Seconds; an open decision older than this belongs to a job that is gone, wherever it ran.
_MAX_AGE = 10 * 60

_USER = "mlflow.user"
_NOTE = "mlflow.note.content"
_RUN_NAME = "mlflow.runName"


@dataclass(frozen=True)
class LoggedDecision:
    """A decision as its run tells it.

    Attributes:
        run_id: the run.
        status: the run's status; ``RUNNING`` while (or because) it was not carried out.
        start_ms: when it was made, milliseconds since 1970.
        target: the target's name.
        outcome: ``promoted``, ``kept``, ``none feasible``, ``rolled back``, or ``pending`` for a
            promotion that was asked for.
        version: where the alias should be afterwards, or None.
        incumbent: where it was before, or None.
        reason: one sentence.
        evidence: digest of what it was based on and what it came to.
        owner: host and process that made it.
        approval: of one that was asked for: ``waiting``, ``approved`` or ``rejected``.
        measured_on: where latency counts for the target, with ``(emulated)`` where the machine
            that decided stands for the device; empty when unknown.
        threads: the threads it is measured with.
        by: the user who made it.
        settled_by: the user who approved or rejected it.
        finished_by: the user who finished it, when it was broken off and that was another.
    """

    run_id: str
    status: str
    start_ms: int
    target: str
    outcome: str
    version: int | None
    incumbent: int | None
    reason: str
    evidence: str
    owner: str = ""
    approval: str = ""
    measured_on: str = ""
    threads: int = 0
    by: str = ""
    settled_by: str = ""
    finished_by: str = ""

    @property
    def abandoned(self) -> bool:
        """Whether the job that opened it is certainly or very likely gone."""
        if self.status != "RUNNING":
            return False
        return is_abandoned(self.owner, self.start_ms, _MAX_AGE)


def limits_digest(target: Target) -> str:
    """Return a digest of all that a target's profile says."""
    return digest_of(json.loads(json.dumps(target_record(target))))


def evidence_digest(decision: Decision, target: Target) -> str:
    """Return a digest of where the alias should be and every gate that says so.

    A promotion and the "kept" that confirms it on the same evidence have the same digest.
    """
    came_to = [decision.version, decision.best_gap, decision.outcome == "none feasible"]
    # repr keeps numbers that JSON has no word for.
    return digest_of([target_text(target), came_to, repr(sorted(decision.gates.items()))])


def render(decision: Decision, variants: Sequence[Variant], model: str) -> str:
    """Return a decision as Markdown: what, why, and every gate of every variant."""
    by_version = {variant.version: variant for variant in variants}
    goes = f"version {decision.version}" if decision.version is not None else "no version"
    lines = [
        f"# {model}@{decision.target}: {decision.outcome}, {goes}",
        "",
        f"{decision.reason}.",
        "",
        "| version | recipe | rate | passes | gates |",
        "|---|---|---|---|---|",
    ]
    for version, gates in sorted(decision.gates.items()):
        variant = by_version.get(version)
        recipe = variant.recipe.label if variant else ""
        rate = f"{variant.report.rate:.1f}x" if variant else ""
        failed = [gate for gate in gates if not gate.passed]
        shown = "; ".join(_gate_text(gate) for gate in failed or gates)
        mark = "no" if failed else "yes"
        chosen = " **(chosen)**" if version == decision.version else ""
        lines.append(f"| {version}{chosen} | {recipe} | {rate} | {mark} | {shown} |")
    return "\n".join(lines) + "\n"


def _gate_text(gate: Gate) -> str:
    if not gate.passed:
        return f"{gate.name}: {gate.reason}"
    return gate.name if gate.value is None else f"{gate.name} {gate.value:.4g}"


class DecisionLog:
    """Writes and reads the decision runs of one registered model.

    Args:
        client: an ``MlflowClient``.
        model: the registered model.
        experiment_id: where new decisions go.
        tags: tags that every run gets besides its own.
    """

    def __init__(
        self,
        client: Any,
        model: str,
        experiment_id: str = "",
        tags: Mapping[str, str] | None = None,
    ) -> None:
        self._client = client
        self._model = model
        self._experiment_id = experiment_id
        self._tags = dict(tags or {})

    def open(self, decision: Decision, target: Target, variants: Sequence[Variant]) -> str:
        """Write a decision down before it is carried out; return its run, left running.

        An open run with the same evidence, left by a job that died or works beside this one,
        is taken over.
        """
        evidence = evidence_digest(decision, target)
        known = next((d for d in self.read_open(decision.target) if d.evidence == evidence), None)
        if known:
            run_id = (self.take_over(known) if known.abandoned else known).run_id
        else:
            run_id = self.create(_entry(decision, decision.outcome, evidence, target))
        self._attach(run_id, decision, target, variants)
        return run_id

    def ask(
        self, decision: Decision, target: Target, variants: Sequence[Variant]
    ) -> LoggedDecision:
        """Write a promotion down that waits for approval; the same one is asked for once.

        Once anything else was decided, it is another one.
        """
        evidence = evidence_digest(decision, target)
        for known in self.read(decision.target):
            if known.outcome != PENDING and known.status == "FINISHED":
                break
            same = (known.evidence, known.incumbent) == (evidence, decision.incumbent)
            if known.outcome == PENDING and same:
                return known
        run_id = self.create(_entry(decision, PENDING, evidence, target), {APPROVAL: "waiting"})
        self._attach(run_id, decision, target, variants)
        self.close(run_id)
        return _logged(self._client.get_run(run_id))

    def settle(self, run_id: str, approval: str) -> None:
        """Say that a waiting promotion was ``approved`` or ``rejected``, and by whom."""
        self._client.set_tag(run_id, SETTLED_BY, self._tags.get(_USER, ""))
        self._client.set_tag(run_id, APPROVAL, approval)

    def create(self, entry: LoggedDecision, tags: Mapping[str, str] | None = None) -> str:
        """Create an open decision run; return its id."""
        # First: what is not named is not found again.
        name_experiment(self._client, self._model, self._experiment_id)
        goes = f"v{entry.version}" if entry.version is not None else "nothing"
        run = self._client.create_run(
            self._experiment_id,
            tags={
                **self._tags,
                **(tags or {}),
                _RUN_NAME: f"{entry.target}: {entry.outcome} {goes}",
                _NOTE: entry.reason,
                KIND: "decision",
                MODEL: self._model,
                TARGET: entry.target,
                OUTCOME: entry.outcome,
                VERSION: "" if entry.version is None else str(entry.version),
                INCUMBENT: "" if entry.incumbent is None else str(entry.incumbent),
                REASON: entry.reason,
                EVIDENCE: entry.evidence,
                OWNER: owner(),
                **_place_tags(entry),
            },
        )
        run_id: str = run.info.run_id
        return run_id

    def take_over(self, begun: LoggedDecision) -> LoggedDecision:
        """Go on with a decision that was broken off; note who does."""
        user = self._tags.get(_USER, "")
        if user == begun.by:
            return begun
        self._client.set_tag(begun.run_id, FINISHED_BY, user)
        return replace(begun, finished_by=user)

    def describe(self, run_id: str, entry: LoggedDecision) -> None:
        """Attach ``decision.json`` and ``decision.md`` of one that an operator made."""
        made = {"run_id": run_id, "by": entry.by or self._tags.get(_USER, "")}
        data = {"model": self._model, **asdict(entry), **made}
        title = f"# {self._model}@{entry.target}: {entry.outcome}, version {entry.version}"
        self._client.log_text(run_id, json.dumps(data, indent=2, sort_keys=True), "decision.json")
        self._client.log_text(run_id, f"{title}\n\n{entry.reason}.\n", "decision.md")

    def _attach(
        self, run_id: str, decision: Decision, target: Target, variants: Sequence[Variant]
    ) -> None:
        text = render(decision, variants, self._model)
        if target.emulated:
            text += f"\nThe machine that measured stands for {target.name}: latency is emulated.\n"
        data = {"model": self._model, **to_dict(decision), "limits": target_record(target)}
        self._client.set_tag(run_id, _NOTE, text)
        self._client.log_text(run_id, json.dumps(data, indent=2, sort_keys=True), "decision.json")
        self._client.log_text(run_id, text, "decision.md")

    def close(self, run_id: str, status: str = "FINISHED") -> None:
        """Say that a decision was carried out (``FINISHED``) or given up (``KILLED``)."""
        self._client.set_terminated(run_id, status)

    def note(self, decision: Decision, target: Target, variants: Sequence[Variant]) -> None:
        """Write down a decision that moves nothing, unless the latest one says the same."""
        evidence = evidence_digest(decision, target)
        latest = next(iter(self.read(decision.target, limit=1)), None)
        if latest is None or latest.evidence != evidence:
            self.close(self.open(decision, target, variants))

    def read(
        self, target: str, *, running: bool = False, limit: int = 1000
    ) -> list[LoggedDecision]:
        """Return the decisions for a target, newest first."""
        query = (
            f"tags.`{KIND}` = 'decision' AND tags.`{MODEL}` = {quoted(self._model)} "
            f"AND tags.`{TARGET}` = {quoted(target)}"
        )
        if running:
            query += " AND attributes.status = 'RUNNING'"
        experiments = self._experiments()
        if not experiments:
            return []
        runs = up_to(
            limit,
            lambda token: self._client.search_runs(
                experiments,
                query,
                max_results=min(limit, 1000),
                order_by=["attributes.start_time DESC"],
                page_token=token,
            ),
        )
        return [_logged(run) for run in runs]

    def waiting_targets(self) -> set[str]:
        """Return the targets for which a promotion was asked for and not settled."""
        query = (
            f"tags.`{KIND}` = 'decision' AND tags.`{MODEL}` = {quoted(self._model)} "
            f"AND tags.`{OUTCOME}` = '{PENDING}' AND tags.`{APPROVAL}` = 'waiting'"
        )
        experiments = self._experiments()
        if not experiments:
            return set()
        found = self._client.search_runs(experiments, query, max_results=1000)
        targets = {run.data.tags.get(TARGET, "") for run in found}
        return {target for target in targets if not alias_problem(target)}

    def _experiments(self) -> list[str]:
        return experiments_of(self._client, self._model, self._experiment_id)

    def read_open(self, target: str) -> list[LoggedDecision]:
        """Return the decisions for a target that were not carried out yet, newest first."""
        return self.read(target, running=True)

    def sweep(self, target: str, done: Sequence[str], evidence: str, current: int | None) -> None:
        """Close what this job opened, what the same evidence opened, and what died open.

        A rollback that died stays open: the operator who repeats it must find it.

        Args:
            target: the target's name.
            done: the runs that this job opened.
            evidence: digest of what it decided on.
            current: the version that the alias is on.
        """
        for known in self.read_open(target):
            if known.run_id in done or known.evidence == evidence:
                self.close(known.run_id)
            elif known.outcome != ROLLED_BACK and known.abandoned:
                self.close(known.run_id, "FINISHED" if self._done(known, current) else "KILLED")

    def _done(self, known: LoggedDecision, current: int | None) -> bool:
        """Whether a decision of a job that died was carried out: the alias is or was there."""
        return known.version == current or any(
            later.incumbent == known.version
            for later in self.read(known.target)
            if later.start_ms > known.start_ms and later.status == "FINISHED"
        )


def _place_tags(entry: LoggedDecision) -> dict[str, str]:
    if not entry.measured_on:
        return {}
    return {MEASURED_ON: entry.measured_on, THREADS: str(entry.threads)}


def _entry(decision: Decision, outcome: str, evidence: str, target: Target) -> LoggedDecision:
    return LoggedDecision(
        run_id="",
        status="RUNNING",
        start_ms=0,
        target=decision.target,
        outcome=outcome,
        version=decision.version,
        incumbent=decision.incumbent,
        reason=decision.reason,
        evidence=evidence,
        measured_on=target.measured_on + (EMULATED if target.emulated else ""),
        threads=target.execution.threads,
    )


def _logged(run: Any) -> LoggedDecision:
    tags = run.data.tags
    return LoggedDecision(
        run_id=run.info.run_id,
        status=run.info.status,
        start_ms=run.info.start_time,
        target=tags.get(TARGET, ""),
        outcome=tags.get(OUTCOME, ""),
        version=read_number(tags.get(VERSION, "")),
        incumbent=read_number(tags.get(INCUMBENT, "")),
        reason=tags.get(REASON, ""),
        evidence=tags.get(EVIDENCE, ""),
        owner=tags.get(OWNER, ""),
        approval=tags.get(APPROVAL, ""),
        measured_on=tags.get(MEASURED_ON, ""),
        threads=read_number(tags.get(THREADS, "")) or 0,
        by=tags.get(_USER, ""),
        settled_by=tags.get(SETTLED_BY, ""),
        finished_by=tags.get(FINISHED_BY, ""),
    )
