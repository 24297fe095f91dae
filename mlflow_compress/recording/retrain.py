"""Retrain jobs as MLflow runs: one at a time per registered model, and each one's verdict.

MLflow has no compare-and-set. An open run stands for a job; whoever wants to begin writes its own
and reads all of them again, twice, as in Lamport's bakery: the earliest wins.
"""

import contextlib
import json
import random
import threading
import time
from collections.abc import Iterator, Mapping
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow.exceptions import MlflowException
from mlflow.tracking.context.registry import resolve_tags

from mlflow_compress.base.clearing import clearing_up
from mlflow_compress.base.json_text import parse_json
from mlflow_compress.errors import BusyError, CompressError
from mlflow_compress.tracking.artifacts import read_small
from mlflow_compress.tracking.client import ensure_experiment
from mlflow_compress.tracking.experiments import experiments_of, name_experiment
from mlflow_compress.tracking.models import ensure_model
from mlflow_compress.tracking.names import (
    BEAT,
    EXIT_CODE,
    JOB_KEY,
    KIND,
    MODEL,
    OWNER,
    SOURCE,
    STATE,
    quoted,
    read_number,
)
from mlflow_compress.tracking.owner import is_abandoned, owner
from mlflow_compress.tracking.patience import is_transient
from mlflow_compress.tracking.runs import RunWriter

__all__ = ["BEAT_SECONDS", "GONE_SECONDS", "JobRuns"]

BEAT_SECONDS = 15.0
"""How often a job says that it is alive."""

GONE_SECONDS = 120.0
"""A job on another host that was silent for so long is gone; clocks must agree to within it."""

_NOTE = "mlflow.note.content"
_VERDICT_FILE = "verdict.json"
_POLL_SECONDS = 5.0
# Two jobs that begin at once may both step back; so often they try again.
_TRIES = 10


class JobRuns:
    """The retrain jobs on one registered model.

    Args:
        client: where they are recorded.
        experiment: the experiment that new ones go to; made when it is missing.
        model: the registered model.
    """

    def __init__(self, client: MlflowClient, experiment: str, model: str) -> None:
        self._client = client
        self._model = model
        self._runs = RunWriter(client, ensure_experiment(client, experiment), resolve_tags())

    def verdict(self, key: str) -> dict[str, Any] | None:
        """Return the newest verdict of a job with this key whose versions are still there."""
        query = (
            f"tags.`{KIND}` = 'retrain' AND tags.`{JOB_KEY}` = {quoted(key)} "
            "AND attributes.status = 'FINISHED'"
        )

        def search() -> list[Run]:
            newest = ["attributes.start_time DESC"]
            return list(
                self._client.search_runs([self._runs.experiment_id], query, order_by=newest)
            )

        for run in self._runs.do("look for an earlier job", search):
            found = self._runs.do(
                "read an earlier verdict",
                lambda run=run: self._read(run.info.run_id),  # type: ignore[misc]
            )
            if found is not None:
                return dict(found)
        return None

    def _read(self, run_id: str) -> dict[str, Any] | None:
        try:
            verdict = parse_json(read_small(self._client, run_id, _VERDICT_FILE))
            for target in verdict["targets"]:
                if target["version"] is not None:
                    self._client.get_model_version(self._model, str(target["version"]))
        except (ValueError, KeyError, TypeError, FileNotFoundError):
            return None
        except MlflowException as error:
            if is_transient(error):
                raise
            return None
        return verdict if isinstance(verdict, dict) else None

    def finish(self, run_id: str, key: str, verdict: Mapping[str, Any]) -> None:
        """Keep a job's verdict, so that the next job with the same key repeats it."""
        self._runs.log_text(run_id, json.dumps(verdict, indent=2), _VERDICT_FILE)
        lines = [f"- {t['target']}: {t['outcome']}: {t['reason']}" for t in verdict["targets"]]
        self._runs.set_tag(run_id, _NOTE, "\n".join(lines))
        self._runs.set_tag(run_id, EXIT_CODE, str(verdict["exit_code"]))
        # Last: what has a key is whole.
        self._runs.set_tag(run_id, JOB_KEY, key)

    @contextlib.contextmanager
    def hold(self, source: str, wait: float = 0.0) -> Iterator[str]:
        """Be the one job on the registered model; yields the run that stands for it.

        The run ends with the block, whatever way that ends.

        Args:
            source: the source's URI, for the record.
            wait: seconds to wait for a job that is at work.

        Raises:
            BusyError: another job is still at work after that.
        """
        run_id = self._begin(source, wait)
        over = threading.Event()
        beating = threading.Thread(target=self._beat, args=(run_id, over), daemon=True)
        beating.start()

        def still() -> None:
            over.set()
            beating.join()

        try:
            yield run_id
        except BaseException as error:
            still()
            with clearing_up():
                status = "KILLED" if isinstance(error, KeyboardInterrupt) else "FAILED"
                self._runs.close(run_id, status)
            raise
        still()
        self._runs.close(run_id, "FINISHED")

    def _begin(self, source: str, wait: float) -> str:
        deadline = time.monotonic() + wait
        tries = 0
        while True:
            others = self._live()
            if not others:
                run_id = self._try(source)
                if run_id is not None:
                    return run_id
            working = [run for run in others if run.data.tags.get(STATE) == "working"]
            left = deadline - time.monotonic()
            tries += not working
            if left <= 0 and (working or tries >= _TRIES):
                raise BusyError(self._told(working or others))
            # Who begins at this moment either works a moment later or steps back.
            time.sleep(min(_POLL_SECONDS, max(left, 0)) if working else random.uniform(0.1, 1))

    def _told(self, others: list[Run]) -> str:
        who = ""
        if others:
            since = time.strftime("%H:%M", time.gmtime(others[0].info.start_time / 1000))
            who = f" ({others[0].data.tags.get(OWNER, 'unknown')}, since {since} UTC)"
        return (
            f"another retrain job is at work on {self._model!r}{who}: "
            "try again later, or wait for it with --wait SECONDS"
        )

    def _try(self, source: str) -> str | None:
        """Open a run and become the one at work, or step back without a trace."""
        tags = {
            KIND: "retrain",
            OWNER: owner(),
            MODEL: self._model,
            STATE: "asking",
            SOURCE: source,
        }
        self._runs.do("name the job's experiment", self._name_experiment)
        run_id = self._runs.create_run(f"retrain {self._model}", tags)
        try:
            if not self._is_blocked(run_id):
                # Everyone says so before looking again: of two who do this at the same moment,
                # the later one sees the earlier one here and steps back.
                self._runs.set_tag(run_id, STATE, "working")
                if not self._is_blocked(run_id, also_working=False):
                    return run_id
        except BaseException:
            with clearing_up():
                self._runs.close(run_id, "KILLED")
            raise
        self._runs.do("step back", lambda: self._step_back(run_id))
        return None

    def _name_experiment(self) -> None:
        # Also before there are variants: jobs of other experiments look there.
        ensure_model(self._client, self._model)
        name_experiment(self._client, self._model, self._runs.experiment_id)

    def _step_back(self, run_id: str) -> None:
        self._client.set_terminated(run_id, "KILLED")
        self._client.delete_run(run_id)

    def _is_blocked(self, run_id: str, also_working: bool = True) -> bool:
        """Whether an earlier job is open, or any that is at work already."""
        live = self._live()
        mine = next((run for run in live if run.info.run_id == run_id), None)
        if mine is None:  # somebody took it for abandoned
            return True
        return any(
            _order(run) < _order(mine) or (also_working and run.data.tags.get(STATE) == "working")
            for run in live
            if run is not mine
        )

    def _live(self) -> list[Run]:
        """Return the open jobs on the model, earliest first; close those of the dead."""
        found = []
        for run in self._runs.do("look for other jobs", self._open):
            tags, begun = run.data.tags, int(run.info.start_time)
            beat = read_number(tags.get(BEAT, "")) or begun
            if is_abandoned(tags.get(OWNER, ""), beat, GONE_SECONDS):
                self._runs.close(run.info.run_id, "KILLED")
            else:
                found.append(run)
        return sorted(found, key=_order)

    def _open(self) -> list[Run]:
        # Jobs on one registered model may keep their runs in different experiments.
        experiments = experiments_of(self._client, self._model, self._runs.experiment_id)
        query = (
            f"tags.`{KIND}` = 'retrain' AND tags.`{MODEL}` = {quoted(self._model)} "
            "AND attributes.status = 'RUNNING'"
        )
        return list(self._client.search_runs(experiments, query))

    def _beat(self, run_id: str, over: threading.Event) -> None:
        while not over.wait(BEAT_SECONDS):
            # A server out of reach ends the job itself, if it lasts; the next beat tries again.
            with contextlib.suppress(CompressError):
                now = str(int(time.time() * 1000))
                self._runs.set_tag(run_id, BEAT, now)


def _order(run: Run) -> tuple[int, str]:
    return int(run.info.start_time), str(run.info.run_id)
