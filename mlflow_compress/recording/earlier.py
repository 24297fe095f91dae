"""Trials that earlier searches of an experiment finished, to be used again."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from mlflow.exceptions import MlflowException

from mlflow_compress.base.json_text import parse_json
from mlflow_compress.records import Trial, from_dict
from mlflow_compress.tracking.artifacts import read_small
from mlflow_compress.tracking.names import DROPPED, KEY, KIND, REPORT_FILE
from mlflow_compress.tracking.pages import every
from mlflow_compress.tracking.patience import is_transient
from mlflow_compress.tracking.runs import RunWriter

__all__ = [
    "Earlier",
    "read_trial",
]

_PAGE = 1000


class Earlier:
    """Finds finished trials by their keys.

    The list of them is asked for once, so that a long search does not ask for every recipe.

    Args:
        runs: writes the runs of the experiment.
    """

    def __init__(self, runs: RunWriter) -> None:
        self._runs = runs
        self._known: dict[str, list[str]] | None = None

    def trials(self, keys: Sequence[str]) -> Mapping[str, Trial]:
        """Return complete trials among ``keys`` whose model is still there."""
        if self._known is None:
            self._known = self._runs.do("look for earlier trials", self._list)
        found = {}
        for key in keys:
            for run_id in self._known.get(key, ()):
                trial = self._runs.do(
                    "read an earlier trial",
                    lambda key=key, run_id=run_id: self._read(key, run_id),  # type: ignore[misc]
                )
                if trial is not None:
                    found[key] = trial
                    break
        return found

    def _list(self) -> dict[str, list[str]]:
        """Return the finished runs of each trial by its key, newest first."""
        client, experiment = self._runs.client, self._runs.experiment_id
        query = f"tags.`{KIND}` = 'trial' AND attributes.status = 'FINISHED'"
        newest = ["attributes.start_time DESC"]
        found: dict[str, list[str]] = {}
        runs = every(
            lambda token: client.search_runs(
                [experiment], query, max_results=_PAGE, order_by=newest, page_token=token
            )
        )
        for run in runs:
            if DROPPED not in run.data.tags and KEY in run.data.tags:
                found.setdefault(run.data.tags[KEY], []).append(run.info.run_id)
        return found

    def _read(self, key: str, run_id: str) -> Trial | None:
        trial = read_trial(self._runs.client, run_id)
        if trial is None or trial.variant is None or trial.key != key:
            return None
        if not self._is_ready(trial.variant.model_uri):
            return None
        return replace(trial, state="reused", path="")

    def _is_ready(self, model_uri: str) -> bool:
        client, model_id = self._runs.client, model_uri.rpartition("/")[2]
        try:
            if str(client.get_logged_model(model_id).status) != "READY":
                return False
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                return False
            raise
        files = client.list_logged_model_artifacts(model_id)
        return any(file.path == "MLmodel" for file in files)


def read_trial(client: Any, run_id: str) -> Trial | None:
    """Rebuild a trial from its run; None when its report is damaged or gone."""
    try:
        return from_dict(Trial, parse_json(read_small(client, run_id, REPORT_FILE)))
    except (ValueError, FileNotFoundError):
        return None
    except MlflowException as error:
        if is_transient(error):
            raise
        return None
