"""The jobs of architecture search, above all rooms: train a supernet, specialise it for targets."""

import hashlib
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch

from mlflow_compress import measure, nas, techniques
from mlflow_compress.base.checkpoints import checkpoint_folder
from mlflow_compress.base.clearing import clearing_up
from mlflow_compress.base.markers import forget
from mlflow_compress.base.scratch import ScratchFolder
from mlflow_compress.config.compress import Config, DataConfig, parse_config
from mlflow_compress.config.nas import NasConfig
from mlflow_compress.errors import ConfigError, SourceError
from mlflow_compress.jobs import compress as job
from mlflow_compress.jobs.nas.resumable import JobRun, resumable
from mlflow_compress.jobs.nas.scores import Desk, TargetResult, Tell
from mlflow_compress.jobs.prepare import make_plan
from mlflow_compress.jobs.rows import load
from mlflow_compress.mlflow_plugin import connect, resolve
from mlflow_compress.recording.nas import NasRuns
from mlflow_compress.records import digest_of
from mlflow_compress.search import Space
from mlflow_compress.targets import Target, load_target
from mlflow_compress.techniques.data import TrainData
from mlflow_compress.tracking.names import NAS_RUN, NAS_SUBNETS, variants_name

__all__ = ["Specialized", "TargetResult", "Trained", "specialize", "train"]

_DRAWN = 50
"""So many trials for each recipe where a range without a step leaves no end to them."""


@dataclass(frozen=True)
class Trained:
    """A supernet that was trained and registered.

    Attributes:
        uri: ``models:/name/version``.
        subnets: how many it holds.
        largest: accuracy of the largest on the rows held out.
        smallest: that of the smallest.
        seconds: CPU seconds of all epochs.
        tracking_uri: where it is recorded.
    """

    uri: str
    subnets: int
    largest: float
    smallest: float
    seconds: float
    tracking_uri: str


@dataclass(frozen=True)
class Specialized:
    """What came of specialising.

    Attributes:
        supernet: its URI with the version resolved.
        results: one per target.
        outcome: of the job that ran the subnets through the recipes; None when there was none.
        calibrated: Spearman's rank correlation of each target's table with the whole networks
            that calibrated it.
    """

    supernet: str
    results: tuple[TargetResult, ...]
    outcome: job.Outcome | None
    calibrated: Mapping[str, float] = field(default_factory=dict)

    @property
    def exit_code(self) -> int:
        """3 when some target has no subnet within its limits, else the job's."""
        if not all(result.fits for result in self.results):
            return 3
        return 0 if self.outcome is None else self.outcome.exit_code


def train(config: NasConfig, tell: Tell = lambda text: None) -> Trained:
    """Train a supernet, log it, and register it; one that was killed goes on where it was.

    Raises:
        CompressError: with the exit code that the command line ends with.
    """
    tell("checking the configuration and the data")
    loaded = load(config.data.train)
    images = nas.Images.split(TrainData(loaded.plain("a supernet"), loaded.labels, loaded.digest))
    size = images.train.shape[-1]
    if size < config.space.resolutions[-1]:
        raise ConfigError(
            f"space.resolutions: the images are {size} x {size}, got {config.space.resolutions[-1]}"
        )
    plan = nas.TrainingPlan(**config.train.model_dump(exclude={"checkpoint_folder"}))
    key = digest_of(
        {
            "space": config.space.model_dump(mode="json"),
            "recipe": asdict(plan),
            "teacher": "recalibrated",  # that of earlier checkpoints was not
            "rows": loaded.digest,
            "torch": torch.__version__,
        }
    )
    file = _checkpoint(config, key)
    runs = NasRuns(config.experiment or config.name, config.tracking_uri)
    torch.manual_seed(plan.seed)
    net = nas.ElasticNet(config.space, images.train.shape[1], size, images.classes)

    def begin() -> JobRun:
        train = config.train.model_dump(exclude={"checkpoint_folder"})
        run_id = runs.start(
            "nas-train",
            f"supernet {config.name}",
            {"subnets": config.space.size, **train},
            config.model_dump(mode="json"),
            {"train": loaded.ref},
        )
        return JobRun(run_id, {})

    marker = file.with_suffix(".run")
    with resumable(runs, marker, begin, what="training", tell=tell) as run:
        logged = runs.logged_epochs(run.id)
        history = nas.train_supernet(
            net, images, plan,
            watch=lambda progress: _log_epoch(runs, run.id, progress, logged, tell),
            checkpoint=file,
        )  # fmt: skip
        trained = _register(config, runs, run.id, net, images, history)
    forget(file)
    return trained


def _log_epoch(runs: NasRuns, run_id: str, made: nas.Progress, logged: int, tell: Tell) -> None:
    tell(
        f"epoch {made.epoch} of {made.epochs}, phase {made.phase}: loss {made.loss:.4f}, largest "
        f"{100 * made.largest:.2f} %, smallest {100 * made.smallest:.2f} %, {made.seconds:.0f} s"
    )
    if made.epoch <= logged:
        return  # of the checkpoint, and logged before the training was broken off
    numbers = ("loss", "largest", "smallest", "seconds")
    runs.epoch_numbers(run_id, made.epoch, {f"nas.{key}": getattr(made, key) for key in numbers})


def _register(
    config: NasConfig, runs: NasRuns, run_id: str, net: nas.ElasticNet,
    images: nas.Images, history: Sequence[nas.Progress],
) -> Trained:  # fmt: skip
    supernet = nas.Supernet.pack(net, images.name)
    seconds, last = sum(one.seconds for one in history), history[-1]
    runs.numbers(run_id, {"nas.subnets": config.space.size, "nas.cpu_seconds": seconds})
    runs.tables(run_id, {"epochs/epochs.json": [asdict(one) for one in history]})
    runs.note(
        run_id,
        f"**{config.name}**: a supernet of {config.space.size:,} subnets, trained for "
        f"{seconds:.0f} CPU seconds. Accuracy on rows held out: largest "
        f"{100 * last.largest:.2f} %, smallest {100 * last.smallest:.2f} %.",
    )
    version = runs.register_supernet(
        run_id,
        config.name,
        net.take(config.space.subnet()),
        images.held[:2].numpy(),
        (nas.SUPERNET_FILE, supernet.data),
        {NAS_SUBNETS: str(config.space.size), NAS_RUN: run_id},
    )
    return Trained(
        f"models:/{config.name}/{version}", config.space.size, last.largest, last.smallest,
        seconds, runs.client.tracking_uri,
    )  # fmt: skip


def specialize(
    config: NasConfig,
    *,
    supernet: str | None = None,
    only: Sequence[str] = (),
    mode: str = "evolution",
    tell: Tell = lambda text: None,
    watcher: job.Watcher | None = None,
) -> Specialized:
    """Find each target's subnet, and run it through the recipes to registration and promotion.

    Args:
        config: the configuration.
        supernet: URI of the supernet; the latest version of the configuration's by default.
        only: names of the targets; all of the configuration's by default.
        mode: ``evolution``, or ``shrink`` for the fixed order.
        tell: hears what goes on, a line each.
        watcher: is told of the job that runs the recipes.

    Raises:
        CompressError: with the exit code that the command line ends with.
    """
    tell("checking the configuration and the data")
    targets = [target for target in _targets(config) if not only or target.name in only]
    missing = next((name for name in only if name not in {t.name for t in targets}), None)
    if missing is not None or not targets:
        known = ", ".join(target.name for target in _targets(config)) or "none"
        told = f"no target {missing!r}" if missing is not None else "no targets"
        raise ConfigError(f"the configuration has {told} (targets: {known})")
    uri = supernet or f"models:/{config.name}/latest"
    loaded = load(config.data.train)
    images = nas.Images.split(TrainData(loaded.plain("a supernet"), loaded.labels, loaded.digest))
    names = {target.name for target in targets}
    rows = _rows(config, loaded)
    make_plan(_job_config(config, uri, names, [config.space.subnet()]), rows)
    runs = NasRuns(config.experiment or config.name, config.tracking_uri)
    with ScratchFolder() as folder:
        # the module is not loaded: the supernet is read from a file without code
        found = resolve(uri, folder, client=connect(config.tracking_uri), trust=True)
        file = (found.folder or Path(folder)) / "extra_files" / nas.SUPERNET_FILE
        if not file.is_file():
            raise SourceError(
                f"source {uri!r} is no supernet: train one with mlflow-compress nas train"
            )
        net = nas.Supernet.read(file)
        measure.check_fits(rows["evaluation"], techniques.normalize(net.largest()))
        desk = Desk(config, net, images, runs, tell)
        run_id = runs.start(
            "nas-specialize",
            f"specialise {config.name}",
            {"supernet": found.uri, "mode": mode, "targets": ", ".join(t.name for t in targets)},
            config.model_dump(mode="json"),
            {"train": loaded.ref},
        )
        try:
            results = [desk.result(run_id, target, mode) for target in targets]
            desk.log(run_id, targets, results)
        except BaseException:
            with clearing_up():
                runs.close(run_id, "FAILED")
            raise
        runs.close(run_id)
    fitting = [result for result in results if result.fits]
    outcome = None
    if fitting:
        outcome = _run_recipes(config, found.uri, fitting, rows, watcher)
    return Specialized(found.uri, tuple(results), outcome, dict(desk.agreement))


def _run_recipes(
    config: NasConfig, uri: str, results: Sequence[TargetResult],
    rows: Mapping[str, measure.Dataset], watcher: job.Watcher | None,
) -> job.Outcome:  # fmt: skip
    """Run the subnets through the recipes by the job that every source goes through."""
    chosen = [
        one.subnet
        for result in results
        for one in (
            result.finalists[: config.specialize.keep] if not result.steps else (result.best,)
        )
    ]  # fmt: skip
    job_config = _job_config(config, uri, {result.target for result in results}, chosen)
    return job.run(job_config, datasets=rows, watcher=watcher)


def _job_config(
    config: NasConfig, uri: str, names: Collection[str], subnets: Sequence[nas.Subnet]
) -> Config:
    """Return the configuration of the job that runs subnets of a supernet through the recipes.

    Raises:
        ConfigError: a recipe cannot be.
    """
    options = config.specialize
    recipes = [
        [{"shrink": {"subnet": str(subnet)}}, *recipe]
        for subnet in dict.fromkeys(subnets)
        for recipe in options.recipes
    ]
    size = Space.parse(recipes).size
    trials = int(size) if math.isfinite(size) else _DRAWN * len(recipes)
    pairs = zip(config.targets, _targets(config), strict=True)
    wanted = [spec for spec, target in pairs if target.name in names]
    plain = {
        "source": uri,
        "register_as": variants_name(config.name, options.register_as),
        "experiment": config.experiment or config.name,
        "tracking_uri": config.tracking_uri,
        "data": {
            "calibration": DataConfig.ref(config.data.train).model_dump(),
            "evaluation": DataConfig.ref(config.data.evaluation).model_dump(),
        },
        "recipes": recipes,
        "search": {
            "trials": trials,
            "latency_rounds": options.rounds,
            "seed": options.seed,
            "screen": False,
            "executor": "inline",  # a trial takes seconds, which processes would take to start
        },
        "targets": wanted,
    }
    return parse_config(plain, "specialize")


def _rows(config: NasConfig, loaded: measure.Dataset) -> dict[str, measure.Dataset]:
    """Return the rows to score on, to calibrate on, and to train on if a recipe does."""
    rows = {
        "evaluation": load(config.data.evaluation),
        # the rows that a file begins with may be of one class
        "calibration": loaded.take(nas.mixed_rows(loaded.rows)),
    }
    corners = Space.parse(config.specialize.recipes, "specialize.recipes").corners()
    if any(techniques.needs_training(recipe) for _, recipe in corners):
        rows["train"] = loaded
    return rows


def _targets(config: NasConfig) -> list[Target]:
    return [load_target(spec) for spec in config.targets]


def _checkpoint(config: NasConfig, key: str) -> Path:
    """Return the file that a training is kept in while it goes on."""
    folder = checkpoint_folder(config.train.checkpoint_folder)
    name = hashlib.sha256(f"{config.name} {key}".encode()).hexdigest()[:32]
    return folder / f"{name}.pt"
