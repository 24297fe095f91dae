"""What the pages show, read from the server as the visitor may see it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeVar

from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from mlflow_compress.base.json_text import parse_json
from mlflow_compress.errors import CompressError
from mlflow_compress.mlflow_plugin.pages.caller import PATIENCE, Caller
from mlflow_compress.mlflow_plugin.pages.points import trials_behind
from mlflow_compress.records import Report, Trial, Variant, from_dict
from mlflow_compress.registry.decisions import LoggedDecision
from mlflow_compress.registry.known import existing
from mlflow_compress.registry.standing import TargetStatus, standing
from mlflow_compress.targets import Target
from mlflow_compress.tracking.names import ALIAS_TAG, REPORT_FILE, VARIANTS_TAG
from mlflow_compress.tracking.patience import is_transient, patiently

__all__ = ["ListedModel", "ModelPage", "TargetPage", "limits_of", "list_models", "read_model"]

# What `decision.json` of a run holds limits in: an operator's own decisions have none.
_DECIDED = ("promoted", "kept", "none feasible", "pending")
_LOOKED_AT = 5
"""Decisions that are read to find the limits of one that was made by limits."""
_MODELS = 50

T = TypeVar("T")


@dataclass(frozen=True)
class ListedModel:
    """A registered model that holds variants.

    Attributes:
        name: its name.
        versions: the version that each of its targets is on, by target.
    """

    name: str
    versions: dict[str, int]


@dataclass(frozen=True)
class TargetPage:
    """How one target stands, what it allows, and how it came to that, newest first."""

    status: TargetStatus
    limits: Target | None
    history: tuple[LoggedDecision, ...]


@dataclass(frozen=True)
class ModelPage:
    """A registered model.

    Attributes:
        name: its name.
        variants: its versions that can be read.
        problems: one line per version that cannot be trusted, and per file that is not read.
        targets: by name.
        trials: every finished trial of its newest source, and its versions.
        runs: the run of each trial, by its key.
        experiment_id: where these runs are, empty when unknown.
        shown: the version whose layers are shown, or None.
        report: its report with the layers, None when it is not there.
    """

    name: str
    variants: tuple[Variant, ...]
    problems: tuple[str, ...]
    targets: tuple[TargetPage, ...]
    trials: tuple[Trial, ...]
    runs: dict[str, str]
    experiment_id: str
    shown: Variant | None
    report: Report | None


def list_models(client: MlflowClient, token: str | None) -> tuple[list[ListedModel], str]:
    """Return the registered models that hold variants, and the token of the next page."""
    query = f"tags.`{VARIANTS_TAG}` = 'yes'"
    page = patiently(
        "list the registered models",
        lambda: client.search_registered_models(query, max_results=_MODELS, page_token=token),
        PATIENCE,
    )
    found = []
    for model in page:
        ours = {tag.removeprefix(ALIAS_TAG) for tag in model.tags if tag.startswith(ALIAS_TAG)}
        versions = {a: int(v) for a, v in sorted(model.aliases.items()) if a in ours}
        found.append(ListedModel(model.name, versions))
    return found, page.token or ""


def read_model(caller: Caller, name: str, version: int | None) -> ModelPage:
    """Read everything that the page of a registered model shows.

    Args:
        caller: the visitor's way to the server.
        name: the registered model.
        version: the version whose layers are shown; that of the first target by default.

    Raises:
        CompressError: it is not there, or not for the visitor.
    """
    unread: list[str] = []

    def told(read: Callable[[], T | None]) -> T | None:
        try:
            return read()
        except CompressError as error:
            unread.append(str(error))
            return None

    client = caller.client
    state = existing(client, name, PATIENCE)
    targets = tuple(
        TargetPage(one, told(partial(limits_of, caller, known)), tuple(known))
        for one, known in standing(client, state, patience=PATIENCE)
    )
    trials, runs, experiment = _trials(client, name, state.variants)
    current = version or next((one.status.version for one in targets if one.status.version), None)
    shown = state.variant(current) or next(reversed(state.variants), None)
    report = told(partial(_report, caller, shown)) if shown is not None else None
    return ModelPage(
        name=name,
        variants=state.variants,
        problems=(*state.problems, *unread),
        targets=targets,
        trials=trials,
        runs=runs,
        experiment_id=experiment,
        shown=shown,
        report=report,
    )


def limits_of(caller: Caller, known: Sequence[LoggedDecision]) -> Target | None:
    """Return the target's profile as the newest decision on it was made with, or None.

    Raises:
        CompressError: what it stands in is larger than any decision.
    """
    for decision in [one for one in known if one.outcome in _DECIDED][:_LOOKED_AT]:
        text = caller.artifact(decision.run_id, "decision.json")
        try:
            made = parse_json(text or "")
            if "limits" not in made and made["by"] is not None:
                continue  # an operator's word: no limits were looked at
            return from_dict(Target, made["limits"])
        except (ValueError, KeyError, TypeError, RecursionError):
            # Somebody else's file, or one of a version before; the page shows no limits then.
            return None
    return None


def _trials(
    client: MlflowClient, name: str, variants: Sequence[Variant]
) -> tuple[tuple[Trial, ...], dict[str, str], str]:
    experiment = _experiment(client, variants)
    trials: list[Trial] = []
    runs: dict[str, str] = {}
    if experiment:
        what = f"read the trials of {name!r}"
        trials, runs = patiently(what, lambda: trials_behind(client, name, experiment), PATIENCE)
    by_key = {trial.key: trial for trial in trials}
    for variant in variants:
        # the version's own report tells more than the metrics
        by_key[variant.key] = Trial(0, variant.key, variant.recipe, "complete", variant=variant)
        runs.setdefault(variant.key, variant.run_id)
    return tuple(by_key.values()), runs, experiment


def _experiment(client: MlflowClient, variants: Sequence[Variant]) -> str:
    """Return the experiment of the newest variant whose run the visitor may read, or nothing."""
    for variant in reversed(variants):
        try:
            return str(client.get_run(variant.run_id).info.experiment_id)
        except MlflowException as error:
            if is_transient(error):
                raise
    return ""


def _report(caller: Caller, variant: Variant) -> Report | None:
    text = caller.artifact(variant.run_id, REPORT_FILE)
    if text is None:
        return None
    try:
        trial = from_dict(Trial, parse_json(text))
    except (ValueError, RecursionError):
        return None
    if trial.variant is None or trial.variant.report.sha256 != variant.report.sha256:
        return None
    # What was measured on devices since is in the version's tags.
    return replace(trial.variant.report, latency=variant.report.latency)
