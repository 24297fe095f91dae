"""Reads a finished search back from MLflow."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from mlflow_compress.base.json_text import parse_json
from mlflow_compress.errors import SourceNotFoundError
from mlflow_compress.recording.earlier import read_trial
from mlflow_compress.records import Trial
from mlflow_compress.report.page import DecisionLine
from mlflow_compress.tracking.artifacts import read_small
from mlflow_compress.tracking.names import (
    ERROR,
    INCUMBENT,
    KIND,
    OUTCOME,
    REASON,
    RECIPE,
    SENSITIVITY_FILE,
    SOURCE,
    SOURCE_DIGEST,
    TARGET,
    VERSION,
    quoted,
    read_number,
)
from mlflow_compress.tracking.pages import every
from mlflow_compress.tracking.patience import PATIENCE, is_transient, patiently

__all__ = ["SearchRecord", "read_search"]


@dataclass(frozen=True)
class SearchRecord:
    """A search as MLflow keeps it.

    Attributes:
        name: the run's name.
        source: URI of the source.
        trials: all finished trials of that source in the experiment, newest first.
        failed: label and reason of the trials of this search that failed.
        decisions: those of the experiment, newest first.
        sensitivity: what each layer of the source bears, one row per layer, technique and level;
            empty when it was not measured.
    """

    name: str
    source: str
    trials: tuple[Trial, ...]
    failed: tuple[tuple[str, str], ...]
    decisions: tuple[DecisionLine, ...]
    sensitivity: tuple[Mapping[str, Any], ...] = ()


def read_search(client: MlflowClient, run_id: str, patience: float = PATIENCE) -> SearchRecord:
    """Read the search of a run; a trial's run stands for its search.

    Raises:
        SourceNotFoundError: there is no such run, or it is none of a search.
        UnreachableError: the server does not answer.
    """
    return patiently(f"read the search of run {run_id!r}", lambda: _read(client, run_id), patience)


def _read(client: MlflowClient, run_id: str) -> SearchRecord:
    search = _search_run(client, run_id)
    digest = search.data.tags.get(SOURCE_DIGEST, "")
    experiment = search.info.experiment_id
    same = f"tags.`{KIND}` = 'search' AND tags.`{SOURCE_DIGEST}` = {quoted(digest)}"
    trials: dict[str, Trial] = {}
    failed: list[tuple[str, str]] = []
    for parent in _all(client, experiment, same):
        ours = parent.info.run_id == search.info.run_id
        query = f"tags.`mlflow.parentRunId` = '{parent.info.run_id}' AND tags.`{KIND}` = 'trial'"
        for run in _all(client, experiment, query):
            tags = run.data.tags
            if run.info.status == "FINISHED":
                trial = read_trial(client, run.info.run_id)
                if trial is not None and trial.variant is not None:
                    trials.setdefault(trial.key, trial)
            elif ours:
                why = tags.get(ERROR, f"it was {run.info.status.lower()}")
                failed.append((tags.get(RECIPE, run.info.run_name), why))
    decided = _all(client, experiment, f"tags.`{KIND}` = 'decision'")
    return SearchRecord(
        name=search.info.run_name or run_id,
        source=search.data.tags.get(SOURCE, ""),
        trials=tuple(trials.values()),
        failed=tuple(failed),
        decisions=tuple(_decision(run) for run in decided),
        sensitivity=_sensitivity(client, experiment, digest),
    )


def _sensitivity(
    client: MlflowClient, experiment: str, digest: str
) -> tuple[Mapping[str, Any], ...]:
    """Return the newest table of what a source's layers bear, if one can be read."""
    query = f"tags.`{KIND}` = 'sensitivity' AND tags.`{SOURCE_DIGEST}` = {quoted(digest)}"
    for run in _all(client, experiment, query):
        try:
            table = parse_json(read_small(client, run.info.run_id, SENSITIVITY_FILE))
            columns = table["columns"]
            return tuple(dict(zip(columns, row, strict=True)) for row in table["data"])
        except (ValueError, KeyError, TypeError, FileNotFoundError):
            continue
        except MlflowException as error:
            if is_transient(error):
                raise
    return ()


def _search_run(client: MlflowClient, run_id: str) -> Any:
    for _ in range(2):
        try:
            run = client.get_run(run_id)
        except MlflowException as error:
            if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
                raise SourceNotFoundError(
                    f"run {run_id!r} does not exist here (give the id of a search's run, as the "
                    "MLflow UI shows it)"
                ) from error
            raise
        kind = run.data.tags.get(KIND)
        if kind == "search":
            return run
        parent = run.data.tags.get("mlflow.parentRunId", "")
        if kind != "trial" or not parent:
            break
        run_id = parent
    raise SourceNotFoundError(f"run {run_id!r} is no search of mlflow-compress")


def _all(client: MlflowClient, experiment: str, query: str) -> Sequence[Any]:
    newest = ["attributes.start_time DESC"]
    return list(
        every(
            lambda token: client.search_runs([experiment], query, order_by=newest, page_token=token)
        )
    )


def _decision(run: Any) -> DecisionLine:
    tags = run.data.tags
    version, before = (tags.get(name, "") for name in (VERSION, INCUMBENT))
    return DecisionLine(
        target=tags.get(TARGET, ""),
        outcome=tags.get(OUTCOME, ""),
        version=read_number(version),
        incumbent=read_number(before),
        start_ms=run.info.start_time,
        reason=tags.get(REASON, ""),
    )
