"""Architecture search as MLflow runs: a supernet's training, and what came of each target."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlflow.models import Model, ModelSignature
from mlflow.tracking.context.registry import resolve_tags
from mlflow.types import Schema, TensorSpec

from mlflow_compress.base.scratch import ScratchFolder
from mlflow_compress.records import DatasetRef
from mlflow_compress.tracking.client import connect, ensure_experiment
from mlflow_compress.tracking.models import register_model
from mlflow_compress.tracking.names import KIND, OWNER, quoted
from mlflow_compress.tracking.owner import owner
from mlflow_compress.tracking.patience import PATIENCE
from mlflow_compress.tracking.projects import no_project
from mlflow_compress.tracking.runs import RunWriter, metric_entities

if TYPE_CHECKING:
    import numpy as np
    from plotly.graph_objects import Figure

__all__ = ["NasRuns"]

_NOTE = "mlflow.note.content"


class NasRuns:
    """Writes the runs of one experiment.

    Args:
        experiment: its name; made when it is missing.
        tracking_uri: where to; MLflow's current tracking URI by default.
        patience: seconds that each call to MLflow is retried for.

    Raises:
        UnreachableError: the server or store cannot be reached or written.
    """

    def __init__(
        self, experiment: str, tracking_uri: str | None = None, patience: float = PATIENCE
    ) -> None:
        self.client = connect(tracking_uri)
        experiment_id = ensure_experiment(self.client, experiment, patience)
        self._runs = RunWriter(self.client, experiment_id, resolve_tags(), patience)

    def start(
        self,
        kind: str,
        name: str,
        params: Mapping[str, Any],
        config: Mapping[str, Any],
        datasets: Mapping[str, DatasetRef],
    ) -> str:
        """Open a run; return its id.

        Args:
            kind: ``nas-train`` or ``nas-specialize``.
            name: for people.
            params: what it is about, in short.
            config: the whole configuration.
            datasets: the rows that are used, by role.
        """
        run_id = self._runs.create_run(name, {KIND: kind, OWNER: owner()})
        self._runs.log_params(run_id, {key: str(value) for key, value in params.items()})
        self._runs.log_datasets(run_id, datasets)
        text = json.dumps(dict(config), indent=2, sort_keys=True, default=str)
        self._runs.log_text(run_id, text, "config.json")
        return run_id

    def goes_on(self, run_id: str) -> bool:
        """Open the run of a job that was killed or interrupted; False when there is none."""
        found = self.client.search_runs(
            [self._runs.experiment_id], f"attributes.run_id = {quoted(run_id)}"
        )
        status = found[0].info.status if found else ""
        if status == "KILLED":
            self.client.update_run(run_id, "RUNNING")
        return status in ("RUNNING", "KILLED")

    def numbers(self, run_id: str, metrics: Mapping[str, float], step: int = 0) -> None:
        """Log metrics."""
        self._runs.log_batch(run_id, metric_entities(run_id, metrics, step=step), {})

    def epoch_numbers(self, run_id: str, number: int, metrics: Mapping[str, float]) -> None:
        """Log the metrics of an epoch, numbered from 1."""
        self.numbers(run_id, {**metrics, "nas.epoch": number}, number)

    def logged_epochs(self, run_id: str) -> int:
        """Return how many epochs a run has."""
        return int(self.client.get_run(run_id).data.metrics.get("nas.epoch", 0))

    def text(self, run_id: str, text: str, file: str) -> None:
        """Log a text artifact."""
        self._runs.log_text(run_id, text, file)

    def tables(self, run_id: str, tables: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
        """Log rows that the UI shows as tables."""
        self._runs.log_tables(run_id, tables)

    def figure(self, run_id: str, figure: "Figure", file: str) -> None:
        """Log a figure as HTML that needs no network."""
        self._runs.log_text(run_id, figure.to_html(include_plotlyjs=True), file)

    def note(self, run_id: str, text: str) -> None:
        """Describe a run for people, in Markdown."""
        self._runs.set_tag(run_id, _NOTE, text)

    def close(self, run_id: str, status: str = "FINISHED") -> None:
        """End a run."""
        self._runs.close(run_id, status)

    def register_supernet(
        self,
        run_id: str,
        name: str,
        module: Any,
        example: "np.ndarray",
        file: tuple[str, bytes],
        tags: Mapping[str, str],
    ) -> int:
        """Log a supernet as a model of the pytorch flavor, and register it; return the version.

        ``mlflow.pytorch.load_model`` gives the largest network, as a graph (``pt2``): neither that
        nor the supernet's own file holds code that loading would run.

        Args:
            run_id: the run that trained it.
            name: the registered model.
            module: the largest network, a ``torch.nn.Module``.
            example: at least two rows.
            file: name and bytes of the file that holds the supernet itself.
            tags: of the version.
        """
        import mlflow.pytorch
        import torch

        shape = (-1, *example.shape[1:])
        signature = ModelSignature(Schema([TensorSpec(example.dtype, shape)]))

        with ScratchFolder() as folder:
            beside = Path(folder) / file[0]
            beside.write_bytes(file[1])

            def save(path: Path, record: Model) -> None:
                with no_project():
                    mlflow.pytorch.save_model(
                        module,
                        str(path),
                        mlflow_model=record,
                        signature=signature,
                        input_example=example[:2],
                        extra_files=[str(beside)],
                        pip_requirements=[f"torch=={torch.__version__.partition('+')[0]}"],
                        serialization_format="pt2",
                    )

            model_id = self._runs.log_model(run_id, name, {}, tags, save)
        return register_model(self.client, name, model_id, run_id, tags)
