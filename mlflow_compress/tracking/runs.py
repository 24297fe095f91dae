"""Runs and logged models written with patience: retried, and never twice for one thing."""

import json
import re
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

from mlflow import MlflowClient
from mlflow.entities import (
    Dataset,
    DatasetInput,
    InputTag,
    LoggedModelOutput,
    LoggedModelStatus,
    Metric,
    Param,
    RunTag,
)
from mlflow.exceptions import MlflowException
from mlflow.models import Model

from mlflow_compress.base.clearing import clearing_up
from mlflow_compress.base.scratch import ScratchFolder
from mlflow_compress.errors import UnreachableError
from mlflow_compress.records import DatasetRef
from mlflow_compress.tracking.names import SHA256, TOKEN
from mlflow_compress.tracking.patience import PATIENCE, patiently

__all__ = ["DIGEST_LENGTH", "RunWriter", "metric_entities", "model_name"]

Result = TypeVar("Result")

# MLflow keeps 36 characters of a dataset's digest; the whole sha256 goes into an input tag.
DIGEST_LENGTH = 36

_AGAIN = 5.0
"""Seconds to wait for a server that was waited for in vain."""

_TABLES = "mlflow.loggedArtifacts"


def model_name(label: str) -> str:
    """Return a name for a logged model: MLflow forbids some characters there, the point too."""
    return re.sub(r"[/:.%\"']", "_", re.sub(r"(?<=\d)\.(?=\d)", ",", label))


def metric_entities(
    run_id: str,
    metrics: Mapping[str, float],
    *,
    model_id: str | None = None,
    dataset: DatasetRef | None = None,
    step: int = 0,
) -> list[Metric]:
    """Return metrics as MLflow stores them, linked to a model and to rows."""
    now = int(time.time() * 1000)
    return [
        Metric(
            key=key,
            value=float(value),
            timestamp=now,
            step=step,
            model_id=model_id,
            dataset_name=dataset.name if dataset else None,
            dataset_digest=dataset.digest[:DIGEST_LENGTH] if dataset else None,
            run_id=run_id,
        )
        for key, value in metrics.items()
    ]


class RunWriter:
    """Writes runs and logged models of one experiment.

    Args:
        client: where they go.
        experiment_id: the experiment.
        tags: tags that every run and model gets.
        patience: seconds that each call is retried for.
    """

    def __init__(
        self,
        client: MlflowClient,
        experiment_id: str,
        tags: Mapping[str, str],
        patience: float = PATIENCE,
    ) -> None:
        self.client = client
        self.experiment_id = experiment_id
        self._tags = dict(tags)
        self._patience = self._left = patience

    def do(self, what: str, call: Callable[[], Result]) -> Result:
        """Call with patience; ``call`` must be safe to repeat.

        Once a server was waited for in vain, it is not waited for as long again until it answers:
        a run that ends has several calls to make.
        """
        try:
            result = patiently(what, call, self._left)
        except UnreachableError:
            self._left = min(self._left, _AGAIN)
            raise
        self._left = self._patience
        return result

    def create_run(self, name: str, tags: Mapping[str, str], parent: str | None = None) -> str:
        """Create one run, also when the answer to the first try was lost; return its id."""
        token = uuid.uuid4().hex
        all_tags = {**self._tags, **tags, TOKEN: token}
        if parent is not None:
            all_tags["mlflow.parentRunId"] = parent
        tried = False

        def create() -> str:
            nonlocal tried
            if tried:
                query = f"tags.`{TOKEN}` = '{token}'"
                found = self.client.search_runs([self.experiment_id], query)
                if found:
                    return str(found[0].info.run_id)
            tried = True
            run = self.client.create_run(self.experiment_id, tags=all_tags, run_name=name)
            return str(run.info.run_id)

        try:
            return self.do(f"create run {name!r}", create)
        except (KeyboardInterrupt, SystemExit):
            if tried:
                self._end_unknown(token)
            raise

    def _end_unknown(self, token: str) -> None:
        """End a run that may have been made by a call that was broken off before it gave the id."""
        with suppress(Exception):
            query = f"tags.`{TOKEN}` = '{token}'"
            for run in self.client.search_runs([self.experiment_id], query):
                self.client.set_terminated(run.info.run_id, "KILLED")

    def log_numbers(
        self,
        run_id: str,
        metrics: Mapping[str, float],
        *,
        model_id: str | None = None,
        dataset: DatasetRef | None = None,
        step: int = 0,
    ) -> None:
        """Log metrics, linked to a model and to the rows they were measured on."""
        entities = metric_entities(run_id, metrics, model_id=model_id, dataset=dataset, step=step)
        self.log_batch(run_id, entities, {})

    def log_batch(self, run_id: str, metrics: Sequence[Metric], tags: Mapping[str, str]) -> None:
        """Log metrics and set tags in one call; MLflow cuts long values."""
        entities = [RunTag(key, value) for key, value in tags.items()]
        self.do("log metrics", lambda: self.client.log_batch(run_id, metrics, tags=entities))

    def log_params(self, run_id: str, params: Mapping[str, str]) -> None:
        """Log parameters."""
        entities = [Param(key, value) for key, value in params.items()]
        self.do("log parameters", lambda: self.client.log_batch(run_id, params=entities))

    def log_text(self, run_id: str, text: str, file: str) -> None:
        """Log a text artifact."""
        self.do(f"log {file}", lambda: self.client.log_text(run_id, text, file))

    def log_tables(self, run_id: str, tables: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
        """Log rows so that the UI offers "View as table" and ``mlflow.load_table`` reads them.

        ``MlflowClient.log_table`` appends to what is there, so that repeating it after a lost
        answer would double the rows.
        """
        for key, value in self.write_tables(run_id, tables).items():
            self.set_tag(run_id, key, value)

    def write_tables(
        self, run_id: str, tables: Mapping[str, Sequence[Mapping[str, Any]]]
    ) -> dict[str, str]:
        """Write the artifacts of :meth:`log_tables`; return the tags that are left to be set."""
        for file, rows in tables.items():
            columns = list(rows[0]) if rows else []
            data = [[row.get(column) for column in columns] for row in rows]
            self.log_text(run_id, json.dumps({"columns": columns, "data": data}), file)
        return {_TABLES: json.dumps([{"path": file, "type": "table"} for file in tables])}

    def set_tag(self, run_id: str, key: str, value: str) -> None:
        """Set one tag of a run; MLflow cuts long values."""
        self.do(f"set tag {key}", lambda: self.client.set_tag(run_id, key, value))

    def rename(self, run_id: str, name: str) -> None:
        """Give a run another name."""
        self.do("name the run", lambda: self.client.update_run(run_id, name=name))

    def close(self, run_id: str, status: str) -> None:
        """End a run with ``FINISHED``, ``FAILED`` or ``KILLED``."""
        self.do("end the run", lambda: self.client.set_terminated(run_id, status))

    def log_datasets(self, run_id: str, datasets: Mapping[str, DatasetRef]) -> None:
        """Log the rows used, by role, under the project's own digest."""
        inputs = [
            DatasetInput(
                Dataset(
                    name=ref.name,
                    digest=ref.digest[:DIGEST_LENGTH],
                    source_type="code",
                    source=json.dumps({"tags": {"mlflow.source.name": ref.name}}),
                    profile=json.dumps({"num_rows": ref.rows}),
                ),
                tags=[
                    InputTag("mlflow.data.context", role),
                    InputTag(SHA256, ref.digest),
                ],
            )
            for role, ref in datasets.items()
        ]
        if inputs:
            self.do("log the datasets", lambda: self.client.log_inputs(run_id, inputs))

    def log_model(
        self,
        run_id: str,
        name: str,
        params: Mapping[str, str],
        tags: Mapping[str, str],
        save: Callable[[Path, Model], None],
    ) -> str:
        """Create a logged model, save it and upload it; return its id.

        Whatever goes wrong, no half-written model stays behind.

        Args:
            run_id: the run that made it.
            name: its name.
            params: its parameters.
            tags: its tags.
            save: writes the model into a folder that it makes; also gets MLflow's record of it.
        """
        model = self.do(
            f"create logged model {name!r}",
            lambda: self._create_model(run_id, model_name(name), {**self._tags, **tags}, params),
        )
        model_id = str(model.model_id)
        try:
            record = Model(
                artifact_path=model.artifact_location,
                model_uuid=model_id,
                run_id=run_id,
                model_id=model_id,
            )
            with ScratchFolder() as folder:
                path = Path(folder) / "model"
                save(path, record)
                self.do(
                    f"upload logged model {name!r}",
                    lambda: self.client.log_model_artifacts(model_id, str(path)),
                )
            self.do("link the model", lambda: self._link(run_id, model_id))
            ready = LoggedModelStatus.READY
            self.do("finish the model", lambda: self.client.finalize_logged_model(model_id, ready))
        except BaseException:
            with clearing_up():
                self.discard_model(model_id)
            raise
        return model_id

    def _create_model(
        self, run_id: str, name: str, tags: Mapping[str, str], params: Mapping[str, str]
    ) -> Any:
        """Create the run's one model, or return the one whose answer was lost."""
        found = self.models_of(run_id)
        if found:
            return found[0]
        return self.client.create_logged_model(
            self.experiment_id, name, run_id, dict(tags), dict(params)
        )

    def _link(self, run_id: str, model_id: str) -> None:
        """Link a run and its model; MLflow refuses what is linked, as after a lost answer."""
        try:
            self.client.log_outputs(run_id, [LoggedModelOutput(model_id, 0)])
        except MlflowException:
            outputs = self.client.get_run(run_id).outputs
            if outputs is None or model_id not in {m.model_id for m in outputs.model_outputs}:
                raise

    def models_of(self, run_id: str) -> list[Any]:
        """Return the logged models of a run."""
        query = f"source_run_id = '{run_id}'"
        return list(self.client.search_logged_models([self.experiment_id], query))

    def discard_model(self, model_id: str) -> None:
        """Delete a logged model that was not finished; one that is gone already is fine."""

        def delete() -> None:
            try:
                self.client.delete_logged_model(model_id)
            except MlflowException as error:
                if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                    raise

        self.do("discard the unfinished model", delete)
