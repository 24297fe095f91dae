"""A path search from its configuration to a registered network: ``mlflow-compress nas paths``.

The network that comes out is a source like any other: an ONNX model, version of a registered one.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mlflow_compress import nas
from mlflow_compress.base.checkpoints import checkpoint_folder
from mlflow_compress.base.markers import forget
from mlflow_compress.base.settings import parse
from mlflow_compress.config.compress import DataRef
from mlflow_compress.config.paths import PathConfig
from mlflow_compress.errors import DataError
from mlflow_compress.jobs.nas.resumable import JobRun, resumable
from mlflow_compress.jobs.rows import load
from mlflow_compress.measure import Dataset
from mlflow_compress.recording.paths import PathRuns
from mlflow_compress.records import digest_of
from mlflow_compress.targets import Target, bound_of
from mlflow_compress.techniques.data import TrainData
from mlflow_compress.tracking.names import (
    NAS_ACCURACY,
    NAS_LATENCY,
    NAS_RUN,
    NAS_TARGET,
    NAS_WEIGHT,
)

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

    found: nas.FoundPath
    uri: str
    run_id: str
    accuracy: float
    latency_ms: float
    predicted_ms: float


def run_paths(config: PathConfig, target: Target, tell: Tell = lambda text: None) -> PathResult:
    """Search, train, measure and register a network for a target.

    One that was killed goes on where it was when it is started again.

    Args:
        config: what to search among, on which rows, and how.
        target: whose latency counts, and whose limit is the reference.
        tell: hears in one line of each thing that is done.

    Raises:
        CompressError: with the exit code that the command line ends with.
    """
    tell("checking the configuration and the data")
    settings = _settings(config.search)
    rows = _images(config.data.train)
    evaluation = None if config.data.evaluation is None else _images(config.data.evaluation)
    images = nas.Images.split(_train_data(rows), config.seed)
    if evaluation is not None:
        _check_alike(evaluation, images)
    _, channels, size, _ = images.train.shape
    space = nas.PathSpace.parse(config.space, channels=channels, size=size, classes=images.classes)
    runs = PathRuns(config.experiment or config.name, config.tracking_uri)
    job = _Job(config, target, settings, space, images, rows, runs, tell)
    return job.result(evaluation)


@dataclass(frozen=True)
class _Job:
    """One search that is recorded."""

    config: PathConfig
    target: Target
    settings: nas.PathSettings
    space: nas.PathSpace
    images: nas.Images
    rows: Dataset
    runs: PathRuns
    tell: Tell

    def result(self, evaluation: Dataset | None) -> PathResult:
        marker = self._marker()

        def table_of(said: Mapping[str, Any]) -> nas.LatencyTable:
            return nas.LatencyTable.from_dict(said["table"])

        with resumable(
            self.runs,
            marker,
            lambda: self._begun(evaluation),
            is_whole=table_of,
            what="search",
            tell=self.tell,
        ) as run:
            table = table_of(run.said)
            self.runs.text(run.id, json.dumps(table.to_dict(), indent=1), "latency_table.json")
            made = self._searched(run.id, table, marker, evaluation)
        forget(marker.with_suffix(".pt"))
        return made

    def _begun(self, evaluation: Dataset | None) -> JobRun:
        """Return a new run, with the table that was measured for it."""
        self.tell(
            f"{self.space.count:,} networks: measuring {len(self.space.entries())} blocks on "
            f"{self.target.name} ({self.target.measured_on})"
        )
        table = self._measured()
        datasets = {"train": self.rows.ref}
        if evaluation is not None:
            datasets["evaluation"] = evaluation.ref
        settings = asdict(self.settings)
        run_id = self.runs.start(
            "nas-paths",
            f"paths for {self.target.name}, latency weight {self.settings.weight:g}",
            {"target": self.target.name, "networks": self.space.count, **settings},
            self.config.model_dump(mode="json"),
            datasets,
        )
        return JobRun(run_id, {"table": table.to_dict()})

    def _measured(self) -> nas.LatencyTable:
        """Measure the blocks, and whole networks drawn at random to calibrate their sums."""
        seed = self.config.seed
        table = nas.measure_table(self.target, self.space.entries(), seed=seed)
        rng = np.random.default_rng(seed)
        specs = [self.space.draw(rng) for _ in range(_CALIBRATED)]
        times = nas.measure_nets(self.target, [nas.Net(spec) for spec in specs], seed=seed)
        return nas.calibrate(table, specs, times.typical.tolist())

    def _searched(
        self, run_id: str, table: nas.LatencyTable, marker: Path, evaluation: Dataset | None
    ) -> PathResult:
        epochs: list[nas.PathEpoch] = []
        logged = self.runs.logged_epochs(run_id)
        found = nas.search_paths(
            self.space,
            self.images,
            table,
            self.settings,
            limit=bound_of(self.target, "latency_p50"),
            seed=self.config.seed,
            watch=lambda epoch: self._hear(run_id, epochs, epoch, logged),
            checkpoint=marker.with_suffix(".pt"),
        )
        for note in found.notes:
            self.tell(note)
        self.tell(f"training the network found for {self.settings.retrain_epochs:g} epochs")
        net = nas.retrain(found.spec, self.images, self.settings, seed=self.config.seed)
        latency = float(nas.measure_nets(self.target, [net]).typical[0])
        score = nas.accuracy(net, *self._judges(evaluation))
        predicted = table.predict(found.spec)
        self.runs.numbers(
            run_id,
            {
                "nas.accuracy": score,
                "nas.latency_ms": latency,
                "nas.predicted_ms": predicted,
                "nas.multiply_adds": found.spec.multiply_adds,
                "nas.weights": found.spec.weights,
            },
        )
        uri = self._registered(run_id, net, found, score, latency)
        return PathResult(found, uri, run_id, score, latency, predicted)

    def _hear(
        self, run_id: str, epochs: list[nas.PathEpoch], epoch: nas.PathEpoch, logged: int
    ) -> None:
        epochs.append(epoch)
        self.tell(
            f"epoch {epoch.epoch} of {epoch.epochs}: loss {epoch.loss:.4f}, likeliest network "
            f"{100 * epoch.score:.2f} %, expected {epoch.expected_ms:.3g} ms, gates "
            f"{100 * epoch.decided:.0f} % decided"
        )
        if epoch.epoch <= logged:
            return
        numbers = ("loss", "score", "expected_ms", "likeliest_ms", "decided")
        metrics = {f"nas.{key}": getattr(epoch, key) for key in numbers}
        self.runs.epoch(run_id, epoch.epoch, metrics, nas.gate_rows(self.space, epochs))

    def _judges(self, evaluation: Dataset | None) -> tuple[torch.Tensor, torch.Tensor]:
        if evaluation is None:
            return self.images.held, self.images.held_labels
        (images,) = evaluation.inputs.values()
        labels = np.asarray(evaluation.labels, np.int64)
        return torch.from_numpy(images), torch.from_numpy(labels)

    def _registered(
        self, run_id: str, net: nas.Net, found: nas.FoundPath, score: float, latency: float
    ) -> str:
        self.runs.text(run_id, json.dumps(found.spec.to_dict(), indent=1), "network.json")
        self.runs.note(
            run_id,
            f"**{self.config.name}**: one of {self.space.count:,} networks, found for "
            f"{self.target.name} with latency weight {self.settings.weight:g}: "
            f"{100 * score:.2f} %, {latency:.3g} ms.",
        )
        version = self.runs.register_network(
            run_id,
            self.config.name,
            nas.net_onnx(net, self.images.name).SerializeToString(),
            {"target": self.target.name, "weight": f"{self.settings.weight:g}"},
            {
                NAS_RUN: run_id,
                NAS_TARGET: self.target.name,
                NAS_WEIGHT: f"{self.settings.weight:g}",
                NAS_ACCURACY: f"{score:.6f}",
                NAS_LATENCY: f"{latency:.6f}",
            },
        )
        return f"models:/{self.config.name}/{version}"

    def _marker(self) -> Path:
        """Return the file that says in which run a search goes on; its checkpoint is beside it."""
        folder = checkpoint_folder(self.config.checkpoint_folder)
        key = digest_of(
            {
                "name": self.config.name,
                "space": asdict(self.space),
                "settings": asdict(self.settings),
                "target": [self.target.name, self.target.measured_on],
                "execution": asdict(self.target.execution),
                "limit": bound_of(self.target, "latency_p50"),
                "rows": self.rows.digest,
                "seed": self.config.seed,
                "torch": torch.__version__,
            }
        )
        return folder / f"{key[:32]}.run"


def _settings(data: Mapping[str, Any]) -> nas.PathSettings:
    return parse("search", nas.PathSettings, data)


def _check_alike(evaluation: Dataset, images: nas.Images) -> None:
    """Refuse evaluation rows that the networks could not be scored on after hours of search."""
    wanted = list(images.train.shape[1:])
    shapes = {
        name: (array.dtype, list(array.shape[1:]))
        for name, array in evaluation.plain("a path search").items()
    }
    if list(shapes.values()) != [(np.dtype(np.float32), wanted)]:
        told = ", ".join(f"{name!r} {dtype} of {shape}" for name, (dtype, shape) in shapes.items())
        raise DataError(
            f"data.evaluation: needs one input of float32 images of {wanted}, as data.train has "
            f"them, got {told}"
        )
    labels = np.asarray(evaluation.labels)
    if labels.ndim != 1 or labels.dtype.kind not in "iu":
        raise DataError(
            "data.evaluation: labels must be one class number per row, got "
            f"{labels.dtype} of {list(labels.shape)}"
        )
    strange = labels[(labels < 0) | (labels >= images.classes)]
    if strange.size:
        raise DataError(
            f"data.evaluation: labels must be from 0 to {images.classes - 1}, as in data.train, "
            f"got {strange[0]}"
        )


def _train_data(rows: Dataset) -> TrainData:
    return TrainData(rows.plain("a path search"), rows.labels, rows.digest)


def _images(ref: str | DataRef) -> Dataset:
    """Load rows with labels; images without channels, as MNIST's own files have them, get one."""
    found = load(ref)
    if found.labels is None:
        raise DataError(f"data {found.name!r}: a path search needs labels, and there are none")
    plain = found.plain("a path search")
    inputs = {name: a[:, None] if a.ndim == 3 else a for name, a in plain.items()}
    return replace(found, inputs=inputs)
