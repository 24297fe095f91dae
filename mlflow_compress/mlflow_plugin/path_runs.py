"""The MLflow run of a path search: its epochs, its gates, and the network that came out of it."""

import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.models import Model

from mlflow_compress.mlflow_plugin import flavor
from mlflow_compress.mlflow_plugin.connection import ensure_experiment
from mlflow_compress.mlflow_plugin.runs import RunWriter
from mlflow_compress.records import DatasetRef
from mlflow_compress.registry.owner import OWNER, is_abandoned, owner
from mlflow_compress.registry.retry import PATIENCE
from mlflow_compress.registry.tags import quoted
from mlflow_compress.registry.variants import using_tracking_uri
from mlflow_compress.report.gates import gates_figure

__all__ = ["PathRun"]

_KIND, _KEY = "compress.kind", "compress.key"
_MAX_AGE = 86400.0
"""Seconds after which an open run of another host counts as left behind."""

Rows = Sequence[Mapping[str, Any]]


class PathRun:
    """One search. A run that a search with the same key left open when it died goes on.

    Args:
        client: where it is logged.
        experiment: the experiment's name; made when it is missing.
        name: the run's name.
        key: tells searches apart: of all that a search depends on.
        params: what the run is described by.
        datasets: the rows, by role.
        patience: seconds that each call is retried for.

    Raises:
        UnreachableError: the server or store cannot be reached.
    """

    def __init__(
        self,
        client: MlflowClient,
        experiment: str,
        name: str,
        key: str,
        params: Mapping[str, str],
        datasets: Mapping[str, DatasetRef],
        patience: float = PATIENCE,
    ) -> None:
        experiment_id = ensure_experiment(client, experiment, patience)
        self._client = client
        self._runs = RunWriter(client, experiment_id, {}, patience)
        found = self._left_open(key)
        self._logged = 0
        if found is not None:
            self.run_id = str(found.info.run_id)
            self._logged = int(found.data.metrics.get("epoch", 0))
            self._runs.set_tag(self.run_id, OWNER, owner())
            return
        self.run_id = self._runs.create_run(
            name, {_KIND: "paths", _KEY: key, OWNER: owner(), "mlflow.note.content": name}
        )
        self._runs.log_params(self.run_id, params)
        self._runs.log_datasets(self.run_id, datasets)

    def _left_open(self, key: str) -> Any:
        query = f"tags.`{_KEY}` = '{key}' AND attributes.status = 'RUNNING'"
        found = self._runs.do(
            "look for a search that was broken off",
            lambda: list(self._client.search_runs([self._runs.experiment_id], query)),
        )
        gone = (
            run
            for run in found
            if is_abandoned(run.data.tags.get(OWNER, ""), run.info.start_time, _MAX_AGE)
        )
        return next(gone, None)

    def log_json(self, data: Any, file: str) -> None:
        """Log plain data as an artifact."""
        self._runs.log_text(self.run_id, json.dumps(data, indent=1, sort_keys=True), file)

    def log_epoch(self, epoch: int, metrics: Mapping[str, float], gates: Rows) -> None:
        """Log an epoch, and the gates of all epochs so far as a table and a figure.

        Args:
            epoch: its number, from 1; one that this run has already is left out.
            metrics: its numbers.
            gates: as :func:`mlflow_compress.report.gates.gates_figure` takes them.
        """
        if epoch <= self._logged:
            return
        self._runs.log_tables(self.run_id, {"gates/gates.json": gates})
        page = gates_figure(gates).to_html(include_plotlyjs="cdn")
        self._runs.log_text(self.run_id, page, "gates/gates.html")
        self._runs.log_numbers(self.run_id, {**metrics, "epoch": epoch}, step=epoch)
        self._logged = epoch

    def log_numbers(self, metrics: Mapping[str, float], *, step: int = 0) -> None:
        """Log numbers of the run."""
        self._runs.log_numbers(self.run_id, metrics, step=step)

    def register(
        self, model: bytes, name: str, params: Mapping[str, str], tags: Mapping[str, str]
    ) -> str:
        """Log an ONNX model, make it a version of a registered model, and return its URI.

        Args:
            model: the model's bytes.
            name: the registered model; made when it is missing.
            params: of the logged model.
            tags: of the version.
        """
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model.onnx"
            path.write_bytes(model)

            def save(where: Path, logged: Any) -> None:
                record = Model(
                    artifact_path=logged.artifact_location,
                    model_uuid=logged.model_id,
                    run_id=self.run_id,
                    model_id=logged.model_id,
                )
                flavor.save_model(path, where, mlflow_model=record)

            inside = Path(folder) / "logged"
            inside.mkdir()
            model_id = self._runs.log_model(self.run_id, name, params, {}, save, inside)
        self._runs.do(f"make registered model {name!r}", lambda: self._make(name))
        what = f"register a version of {name!r}"
        version = self._runs.do(what, lambda: self._version(name, model_id, tags))
        return f"models:/{name}/{version}"

    def _make(self, name: str) -> None:
        try:
            self._client.create_registered_model(name)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise

    def _version(self, name: str, model_id: str, tags: Mapping[str, str]) -> str:
        """Make the run's version, or return the one whose answer was lost."""
        query = f"name = {quoted(name)} AND run_id = {quoted(self.run_id)}"
        found = list(self._client.search_model_versions(query))
        if found:
            return str(found[0].version)
        with using_tracking_uri(self._client.tracking_uri):
            made = self._client.create_model_version(
                name, f"models:/{model_id}", self.run_id, tags=dict(tags), model_id=model_id
            )
        return str(made.version)

    def close(self, status: str) -> None:
        """End the run with ``FINISHED``, ``FAILED`` or ``KILLED``."""
        self._runs.close(self.run_id, status)
