"""A path search from its configuration to a registered network: ``mlflow-compress nas paths``.

The network that comes out is a source like any other: an ONNX model, version of a registered one.
"""

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np

from mlflow_compress.errors import DataError
from mlflow_compress.path_config import PathPlan
from mlflow_compress.techniques.base import parse_settings

if TYPE_CHECKING:
    from mlflow_compress.measure import Dataset
    from mlflow_compress.mlflow_plugin.path_runs import PathRun
    from mlflow_compress.nas import Images, LatencyTable
    from mlflow_compress.nas.path_search import Found, PathEpoch
    from mlflow_compress.nas.path_settings import PathSettings
    from mlflow_compress.nas.path_space import PathSpace
    from mlflow_compress.targets import Target
    from mlflow_compress.techniques.train_data import TrainData

__all__ = ["PathResult", "run_paths"]

_CALIBRATED = 20
"""So many networks of the space are measured whole to calibrate the table."""

Tell = Callable[[str], None]


@dataclass(frozen=True)
class PathResult:
    """What a search came to.

    Attributes:
        found: the network's shape, and every epoch.
        uri: the registered version.
        run_id: the MLflow run.
        accuracy: on the evaluation rows, or on the rows held out where there are none.
        latency_ms: measured on the target.
        predicted_ms: by the table.
    """

    found: "Found"
    uri: str
    run_id: str
    accuracy: float
    latency_ms: float
    predicted_ms: float


def run_paths(
    plan: PathPlan,
    target: "Target",
    *,
    seed: int = 0,
    checkpoints: Path | None = None,
    tell: Tell = lambda text: None,
) -> PathResult:
    """Search, train, measure and register a network for a target.

    Args:
        plan: what to search among, on which rows, and how.
        target: whose latency counts, and whose limit is the reference.
        seed: seeds everything random.
        checkpoints: where a search that was broken off goes on from; None keeps none.
        tell: hears in one line of each thing that is done.

    Raises:
        CompressError: see :func:`mlflow_compress.nas.path_search.search_paths` and
            :func:`mlflow_compress.nas.measure_table`.
    """
    from mlflow_compress.mlflow_plugin import connect
    from mlflow_compress.mlflow_plugin.path_runs import PathRun
    from mlflow_compress.nas import Images

    settings = _settings(plan.search)
    rows, evaluation = _rows(plan.train, plan.rows), None
    images = Images.split(_train_data(rows), seed)
    space = _space(plan, images)
    if plan.evaluation is not None:
        evaluation = _rows(plan.evaluation, None)
    key = _key(plan, space, settings, target, rows, seed)
    datasets = {"train": rows.ref} | ({} if evaluation is None else {"evaluation": evaluation.ref})
    params = {
        "target": target.name, "device": target.measured_on, "seed": str(seed),
        "networks": str(space.count), **{k: str(v) for k, v in asdict(settings).items()},
    }  # fmt: skip
    name = f"paths for {target.name}, latency weight {settings.weight:g}"
    run = PathRun(connect(plan.tracking_uri), plan.experiment, name, key, params, datasets)
    try:
        tell(f"{space.count:,} networks; measuring {len(space.entries())} blocks on {target.name}")
        job = _Job(plan, target, settings, space, images, run, tell, seed)
        result = job.result(checkpoints, key, evaluation)
    except KeyboardInterrupt:
        raise  # the run stays open, and the search goes on in it
    except BaseException:
        run.close("FAILED")
        raise
    run.close("FINISHED")
    return result


@dataclass(frozen=True)
class _Job:
    """One search that is logged."""

    plan: PathPlan
    target: "Target"
    settings: "PathSettings"
    space: "PathSpace"
    images: "Images"
    run: "PathRun"
    tell: Tell
    seed: int

    def result(
        self, checkpoints: Path | None, key: str, evaluation: "Dataset | None"
    ) -> PathResult:
        from mlflow_compress.nas import accuracy, measure_nets, net_onnx
        from mlflow_compress.nas.path_search import retrain, search_paths

        table = self._table(checkpoints, key)
        self.run.log_json(table.to_dict(), "latency_table.json")
        epochs: list[PathEpoch] = []
        found = search_paths(
            self.space,
            self.images,
            table,
            self.settings,
            limit=self.target.limits.latency_p50_ms,
            seed=self.seed,
            watch=lambda epoch: self._hear(epochs, epoch),
            checkpoints=checkpoints,
            digest=key,
        )
        for note in found.notes:
            self.tell(note)
        self.run.log_json(found.spec.to_dict(), "network.json")
        self.tell(f"training the network found, {self.settings.retrain_epochs:g} epochs")
        net = retrain(found.spec, self.images, self.settings, seed=self.seed)
        (latency,) = measure_nets(self.target, [net])
        score = accuracy(net, self.images.held, self.images.held_labels)
        if evaluation is not None:
            score = accuracy(net, *_tensors(evaluation))
        predicted = table.predict(found.spec)
        numbers = {"accuracy": score, "latency_ms": float(latency), "predicted_ms": predicted,
                   "multiply_adds": float(found.spec.multiply_adds)}  # fmt: skip
        self.run.log_numbers(numbers)
        model = net_onnx(net, self.images.name).SerializeToString()
        uri = self._register(model, found, score, float(latency))
        if checkpoints is not None:
            _table_file(checkpoints, key).unlink(missing_ok=True)
        return PathResult(found, uri, self.run.run_id, score, float(latency), predicted)

    def _hear(self, epochs: "list[PathEpoch]", epoch: "PathEpoch") -> None:
        from mlflow_compress.nas.path_search import gate_rows

        epochs.append(epoch)
        metrics = {
            "search_loss": epoch.loss, "likeliest_accuracy": epoch.score,
            "expected_latency_ms": epoch.expected_ms, "likeliest_latency_ms": epoch.likeliest_ms,
            "decided": epoch.decided,
        }  # fmt: skip
        self.run.log_epoch(epoch.epoch, metrics, gate_rows(self.space, epochs))
        self.tell(
            f"epoch {epoch.epoch} of {epoch.epochs}: loss {epoch.loss:.4f}, likeliest network "
            f"{100 * epoch.score:.2f} %, expected {epoch.expected_ms:.3g} ms, gates "
            f"{100 * epoch.decided:.0f} % decided"
        )

    def _table(self, checkpoints: Path | None, key: str) -> "LatencyTable":
        """Measure the blocks; a search that goes on keeps the table that it began with."""
        from mlflow_compress.nas import LatencyTable, Net, calibrate, measure_nets, measure_table

        kept = None if checkpoints is None else _table_file(checkpoints, key)
        if kept is not None and kept.exists():
            return LatencyTable.from_dict(json.loads(kept.read_text(encoding="utf-8")))
        table = measure_table(self.target, self.space.entries(), seed=self.seed)
        rng = np.random.default_rng(self.seed)
        specs = [
            self.space.spec([int(rng.integers(len(place))) for place in self.space.places])
            for _ in range(_CALIBRATED)
        ]
        times = measure_nets(self.target, [Net(spec) for spec in specs], seed=self.seed)
        table = calibrate(table, specs, times.tolist())
        if kept is not None:
            kept.parent.mkdir(parents=True, exist_ok=True)
            kept.write_text(json.dumps(table.to_dict()), encoding="utf-8")
        return table

    def _register(self, model: bytes, found: "Found", score: float, latency: float) -> str:
        params = {"target": self.target.name, "weight": f"{self.settings.weight:g}"}
        tags = {
            "compress.nas": "paths",
            "compress.nas.target": self.target.name,
            "compress.nas.weight": f"{self.settings.weight:g}",
            "compress.nas.accuracy": f"{score:.6f}",
            "compress.nas.latency_ms": f"{latency:.6f}",
            "compress.nas.network": json.dumps([str(index) for index in found.chosen]),
        }
        return self.run.register(model, self.plan.register_as, params, tags)


def _table_file(folder: Path, key: str) -> Path:
    return folder / f"table-{key[:32]}.json"


def _settings(data: Mapping[str, Any]) -> "PathSettings":
    from mlflow_compress.nas.path_settings import PathSettings

    made: PathSettings = parse_settings(SimpleNamespace(name="search", settings=PathSettings), data)  # type: ignore[arg-type]
    return made


def _space(plan: PathPlan, images: "Images") -> "PathSpace":
    from mlflow_compress.nas.path_space import PathSpace

    _, channels, size, _ = images.train.shape
    return PathSpace.parse(plan.space, channels=channels, size=size, classes=images.classes)


def _rows(spec: str, limit: int | None) -> "Dataset":
    from mlflow_compress.measure import load_dataset

    found = load_dataset(spec, limit=limit)
    if found.labels is None:
        raise DataError(f"data {found.name!r}: a path search needs labels, and there are none")
    # images without an axis of channels, as MNIST's own files have them
    inputs = {n: a[:, None] if a.ndim == 3 else a for n, a in found.inputs.items()}
    return replace(found, inputs=inputs)


def _train_data(rows: "Dataset") -> "TrainData":
    from mlflow_compress.techniques.train_data import TrainData

    return TrainData(rows.inputs, rows.labels, rows.digest)


def _tensors(rows: "Dataset") -> Any:
    import torch

    (images,) = rows.inputs.values()
    return torch.from_numpy(images), torch.from_numpy(np.asarray(rows.labels, np.int64))


def _key(
    plan: PathPlan,
    space: "PathSpace",
    settings: "PathSettings",
    target: "Target",
    rows: "Dataset",
    seed: int,
) -> str:
    told = [plan.register_as, asdict(space), asdict(settings), target.name, target.measured_on,
            target.execution.threads, rows.digest, seed]  # fmt: skip
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()
