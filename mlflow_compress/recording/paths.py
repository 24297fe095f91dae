"""The MLflow run of a path search: its epochs, its gates, and the network that came out of it."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mlflow.models import Model

from mlflow_compress.base.scratch import ScratchFolder
from mlflow_compress.mlflow_plugin import flavor
from mlflow_compress.recording.nas import NasRuns
from mlflow_compress.report.gates import gates_figure
from mlflow_compress.tracking.models import register_model

__all__ = ["PathRuns"]


class PathRuns(NasRuns):
    """Writes the runs of path searches of one experiment."""

    def epoch(
        self,
        run_id: str,
        number: int,
        metrics: Mapping[str, float],
        gates: Sequence[Mapping[str, Any]],
    ) -> None:
        """Log an epoch, and the gates of all epochs so far as a table and a figure.

        Args:
            run_id: the run.
            number: of the epoch, from 1.
            metrics: its numbers.
            gates: as :func:`mlflow_compress.report.gates.gates_figure` takes them.
        """
        self.tables(run_id, {"gates/gates.json": gates})
        self.figure(run_id, gates_figure(gates), "gates/gates.html")
        self.epoch_numbers(run_id, number, metrics)

    def register_network(
        self, run_id: str, name: str, model: bytes, params: Mapping[str, str],
        tags: Mapping[str, str],
    ) -> int:  # fmt: skip
        """Log an ONNX model, and register it; return the version.

        Args:
            run_id: the run that made it.
            name: the registered model.
            model: the model's bytes.
            params: of the logged model.
            tags: of the version.
        """
        with ScratchFolder() as folder:
            file = Path(folder) / "model.onnx"
            file.write_bytes(model)

            def save(path: Path, record: Model) -> None:
                flavor.save_model(file, path, mlflow_model=record)

            model_id = self._runs.log_model(run_id, name, params, tags, save)
        return register_model(self.client, name, model_id, run_id, tags)
