"""The jobs of architecture search, above all rooms: train a supernet, specialise it for targets."""

import hashlib
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from mlflow_compress import job, measure, nas
from mlflow_compress.config import DataConfig, DataRef, parse_config
from mlflow_compress.errors import CompressError, ConfigError, SourceError
from mlflow_compress.mlflow_plugin import connect, resolve
from mlflow_compress.mlflow_plugin.nas_runs import NasRuns
from mlflow_compress.nas_config import NasConfig
from mlflow_compress.records import digest_of
from mlflow_compress.report import shrink_figure, subnets_figure
from mlflow_compress.targets import Target, load_target
from mlflow_compress.techniques.train_data import TrainData

__all__ = ["Specialized", "TargetResult", "Trained", "specialize", "train"]

Tell = Callable[[str], None]

_SCORED = 2000
"""Rows held out that subnets are scored on while they are looked for."""


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
class TargetResult:
    """What was found for one target.

    Attributes:
        target: its name.
        best: the best subnet within its limits, or the nearest miss.
        fits: whether it keeps the limits, as measured.
        finalists: all that were measured, the best first.
        steps: those of the mode shrink.
    """

    target: str
    best: nas.Found
    fits: bool
    finalists: tuple[nas.Found, ...]
    steps: tuple[nas.Step, ...] = ()


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
    loaded = _load(config.data.train)
    images = nas.Images.split(TrainData(loaded.inputs, loaded.labels, loaded.digest))
    size = images.train.shape[-1]
    if size < config.space.resolutions[-1]:
        raise ConfigError(
            f"space.resolutions: the images are {size} x {size}, got {config.space.resolutions[-1]}"
        )
    recipe = nas.Recipe(**config.train.model_dump(exclude={"checkpoint_folder"}))
    key = digest_of(
        {
            "space": config.space.model_dump(mode="json"),
            "recipe": asdict(recipe),
            "rows": loaded.digest,
            "torch": torch.__version__,
        }
    )
    file = _checkpoint(config, key)
    runs = NasRuns(config.experiment or config.name, config.tracking_uri)
    run_id = _open_run(runs, config, loaded, file, tell)
    torch.manual_seed(recipe.seed)
    net = nas.ElasticNet(config.space, images.train.shape[1], size, images.classes)
    try:
        history = nas.train_supernet(
            net, images, recipe,
            watch=lambda progress: _log_epoch(runs, run_id, progress, tell),
            checkpoint=file,
        )  # fmt: skip
        trained = _register(config, runs, run_id, net, images, history)
    except BaseException as error:
        # a run that may go on stays open
        if isinstance(error, CompressError):
            runs.close(run_id, "FAILED")
            file.with_suffix(".run").unlink(missing_ok=True)
        raise
    for one in (file, file.with_suffix(".run")):
        one.unlink(missing_ok=True)
    return trained


def _open_run(
    runs: NasRuns, config: NasConfig, loaded: measure.Dataset, file: Path, tell: Tell
) -> str:
    """Return the run of a training that was killed, or a new one."""
    marker = file.with_suffix(".run")
    if file.exists() and marker.exists():
        run_id = marker.read_text()
        if runs.is_open(run_id):
            tell(f"going on with the training that was broken off (run {run_id})")
            return run_id
    run_id = runs.start(
        "nas-train",
        f"supernet {config.name}",
        {"subnets": config.space.size, **config.train.model_dump(exclude={"checkpoint_folder"})},
        config.model_dump(mode="json"),
        {"train": loaded.ref},
    )
    marker.parent.mkdir(parents=True, exist_ok=True)
    marker.write_text(run_id)
    return run_id


def _log_epoch(runs: NasRuns, run_id: str, made: nas.Progress, tell: Tell) -> None:
    tell(
        f"epoch {made.epoch} of {made.epochs}, phase {made.phase}: loss {made.loss:.4f}, largest "
        f"{100 * made.largest:.2f} %, smallest {100 * made.smallest:.2f} %, {made.seconds:.0f} s"
    )
    numbers = ("loss", "largest", "smallest", "seconds")
    runs.numbers(run_id, {f"nas.{key}": getattr(made, key) for key in numbers}, made.epoch)


def _register(
    config: NasConfig, runs: NasRuns, run_id: str, net: "nas.ElasticNet",
    images: "nas.Images", history: Sequence["nas.Progress"],
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
        {"compress.nas.subnets": str(config.space.size), "compress.nas.run": run_id},
    )
    runs.close(run_id)
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
    loaded = _load(config.data.train)
    images = nas.Images.split(TrainData(loaded.inputs, loaded.labels, loaded.digest))
    runs = NasRuns(config.experiment or config.name, config.tracking_uri)
    uri = supernet or f"models:/{config.name}/latest"
    with tempfile.TemporaryDirectory(prefix="mlflow-compress-") as folder:
        found = resolve(uri, folder, client=connect(config.tracking_uri))
        file = (found.folder or Path(folder)) / "extra_files" / nas.SUPERNET_FILE
        if not file.is_file():
            raise SourceError(
                f"source {uri!r} is no supernet: train one with mlflow-compress nas train"
            )
        desk = _Desk(config, nas.Supernet.read(file), images, runs, tell)
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
            runs.close(run_id, "FAILED")
            raise
        runs.close(run_id)
    fitting = [result for result in results if result.fits]
    outcome = _run_recipes(config, found.uri, targets, fitting, watcher) if fitting else None
    return Specialized(found.uri, tuple(results), outcome, dict(desk.agreement))


def _run_recipes(
    config: NasConfig, uri: str, targets: Sequence[Target], results: Sequence[TargetResult],
    watcher: job.Watcher | None,
) -> job.Outcome:  # fmt: skip
    """Run the subnets through the recipes by the job that every source goes through."""
    options = config.specialize
    chosen = [
        one.subnet
        for result in results
        for one in (
            result.finalists[: options.keep] if not result.steps else (result.best,)
        )
    ]  # fmt: skip
    recipes = [
        [{"shrink": {"subnet": str(subnet)}}, *recipe]
        for subnet in dict.fromkeys(chosen)
        for recipe in options.recipes
    ]
    names = {result.target for result in results}
    wanted = [
        spec for spec, target in zip(config.targets, _targets(config), strict=True)
        if target.name in names and target in targets
    ]  # fmt: skip
    train = DataConfig.ref(config.data.train)
    plain = {
        "source": uri,
        "register_as": options.register_as or f"{config.name}-edge",
        "experiment": config.experiment or config.name,
        "tracking_uri": config.tracking_uri,
        "data": {
            "calibration": train.model_copy(update={"rows": 2048}).model_dump(),
            "evaluation": DataConfig.ref(config.data.evaluation).model_dump(),
        },
        "recipes": recipes,
        "search": {
            "latency_rounds": options.rounds,
            "seed": options.seed,
            "screen": False,
            "executor": "inline",  # a trial takes seconds, which processes would take to start
        },
        "targets": wanted,
    }
    return job.run(parse_config(plain, "specialize"), watcher=watcher)


class _Desk:
    """Scores, measures and records subnets of one supernet."""

    def __init__(
        self, config: NasConfig, supernet: "nas.Supernet", images: "nas.Images", runs: NasRuns,
        tell: Tell,
    ) -> None:  # fmt: skip
        self.config, self.supernet, self.images = config, supernet, images
        self.runs, self.tell = runs, tell
        self.space, self.net = supernet.net.space, supernet.net
        self.agreement: dict[str, float] = {}
        self._nets: dict[nas.Subnet, nas.Net] = {}
        self._scores: dict[nas.Subnet, float] = {}
        self._tables: dict[tuple[str, int], nas.LatencyTable] = {}
        self._predictor: nas.Predictor | None = None

    def spec(self, subnet: "nas.Subnet") -> "nas.NetSpec":
        return self.space.spec(subnet, self.net.channels, self.net.size, self.net.classes)

    def score(self, subnet: "nas.Subnet") -> float:
        if subnet not in self._scores:
            rows = slice(_SCORED)
            held, labels = self.images.held[rows], self.images.held_labels[rows]
            self._scores[subnet] = nas.accuracy(self._taken(subnet), held, labels)
        return self._scores[subnet]

    def _taken(self, subnet: "nas.Subnet") -> "nas.Net":
        if subnet not in self._nets:
            self._nets[subnet] = self.supernet.subnet(
                subnet, {self.supernet.input_name: self.images.train[:_SCORED].numpy()}
            )
        return self._nets[subnet]

    def measure(self, target: Target, subnets: Sequence["nas.Subnet"]) -> list[float]:
        options = self.config.specialize
        nets = [self.net.take(subnet) for subnet in subnets]
        found = nas.measure_nets(target, nets, rounds=options.rounds, seed=options.seed)
        return [float(ms) for ms in found.typical]

    def table(self, run_id: str, target: Target) -> "nas.LatencyTable":
        """Measure the table of a target's device once, and calibrate it on whole networks."""
        place = (target.measured_on, target.execution.threads)
        if place in self._tables:
            return self._tables[place]
        self.tell(f"measuring the blocks on {target.measured_on}")
        options, net = self.config.specialize, self.net
        blocks = list(self.space.all_blocks(net.channels, net.size, net.classes))
        table = nas.measure_table(target, blocks, seed=options.seed)
        some = nas.spread(self.space, options.calibration, options.seed)
        times = self.measure(target, some)
        table = nas.calibrate(table, [self.spec(subnet) for subnet in some], times)
        predicted = [table.predict(self.spec(subnet)) for subnet in some]
        agreement = nas.ranks_agree(predicted, times)
        self.agreement[target.name] = agreement
        self.tell(
            f"{len(blocks)} blocks and {len(some)} networks measured on {target.measured_on}: "
            f"rank correlation {agreement:.3f}"
        )
        name = f"latency/{target.name}"
        self.runs.text(run_id, _json(table.to_dict()), f"{name}.json")
        rows = [
            {"subnet": str(s), "table_ms": p, "measured_ms": t}
            for s, p, t in zip(some, predicted, times, strict=True)
        ]
        self.runs.tables(run_id, {f"{name}-calibration.json": rows})
        self._tables[place] = table
        return table

    def predictor(self) -> "nas.Predictor":
        """Score some subnets once, and learn to predict the others."""
        if self._predictor is None:
            options = self.config.specialize
            some = nas.spread(self.space, options.samples, options.seed + 1)
            self.tell(f"scoring {len(some)} subnets on rows held out")
            scores = [self.score(subnet) for subnet in some]
            self._predictor = nas.Predictor.fit(self.space, some, scores)
        return self._predictor

    def result(self, run_id: str, target: Target, mode: str) -> TargetResult:
        """Find a target's subnet."""
        options = self.config.specialize
        search = nas.Search(
            target,
            self.space,
            self.score,
            lambda subnets: self.measure(target, subnets),
            lambda subnet: self.spec(subnet).weights,
            self.score(self.space.subnet()),
            options.bytes_per_weight,
        )
        if mode == "shrink":
            steps = nas.shrink_path(search, options.order, lambda s: self._tell_step(target, s))
            best = next(step.found for step in reversed(steps) if step.kept)
            return TargetResult(target.name, best, search.excess(best) == 0, (best,), tuple(steps))
        table, predictor = self.table(run_id, target), self.predictor()
        evolution = nas.Evolution(options.population, options.generations, seed=options.seed)
        finalists = nas.specialize(
            search, predictor, table, lambda subnet: table.predict(self.spec(subnet)),
            evolution, options.finalists, self.tell,
        )  # fmt: skip
        best = finalists[0]
        fits = search.excess(best) == 0
        self.tell(
            f"{target.name}: {'best' if fits else 'nothing within the limits, nearest'}: "
            f"{best.subnet}: {100 * best.accuracy:.2f} %, {best.ms:.3f} ms"
        )
        return TargetResult(target.name, best, fits, tuple(finalists))

    def _tell_step(self, target: Target, step: "nas.Step") -> None:
        what = f"{step.kind} {step.bound}" if step.kind else "the largest"
        back = "" if step.kept else ", taken back: it breaks a limit of accuracy"
        self.tell(
            f"{target.name}: {what}: {100 * step.found.accuracy:.2f} %, "
            f"{step.found.ms:.3f} ms{back}"
        )

    def log(
        self, run_id: str, targets: Sequence[Target], results: Sequence[TargetResult]
    ) -> None:  # fmt: skip
        """Log tables, figures and numbers of all targets."""
        tables: dict[str, list[dict[str, Any]]] = {"subnets/subnets.json": []}
        for target, result in zip(targets, results, strict=True):
            rows = [_row(target, one) for one in result.finalists]
            if result.steps:
                rows = [_row(target, s.found) | {"shrunk": s.kind, "bound": s.bound, "kept": s.kept}
                        for s in result.steps]  # fmt: skip
                tables[f"shrink/{target.name}.json"] = rows
                figure = shrink_figure(rows, target.name, _limit(target))
                self.runs.figure(run_id, figure, f"shrink/{target.name}.html")
            else:
                tables["subnets/subnets.json"] += rows + self._sampled(target)
            numbers = {"accuracy": result.best.accuracy, "ms": result.best.ms}
            self.runs.numbers(run_id, {f"nas.{target.name}.{k}": v for k, v in numbers.items()})
        rows = tables["subnets/subnets.json"]
        if rows:
            limits = {target.name: _limit(target) for target in targets}
            self.runs.figure(run_id, subnets_figure(rows, limits), "subnets/subnets.html")
        self.runs.tables(run_id, {file: rows for file, rows in tables.items() if rows})
        lines = [
            f"- {r.target}: `{r.best.subnet}`, {100 * r.best.accuracy:.2f} % on rows held out, "
            f"{r.best.ms:.3f} ms{'' if r.fits else ' (not within the limits)'}"
            for r in results
        ]
        self.runs.note(run_id, "\n".join(["Subnets per target:", "", *lines]))

    def _sampled(self, target: Target) -> list[dict[str, Any]]:
        """Return the subnets that taught the predictor, with the table's latency on a target."""
        table = self._tables[target.measured_on, target.execution.threads]
        specs = {subnet: self.spec(subnet) for subnet in self._scores}
        return [
            _row(target, nas.Found(s, score, table.predict(specs[s]), specs[s].weights, False))
            for s, score in self._scores.items()
        ]


def _row(target: Target, found: "nas.Found") -> dict[str, Any]:
    return {"target": target.name, **asdict(found), "subnet": str(found.subnet)}


def _limit(target: Target) -> float | None:
    return target.limits.latency_p50_ms


def _json(data: Mapping[str, Any]) -> str:
    import json

    return json.dumps(data, indent=1)


def _load(ref: str | DataRef) -> measure.Dataset:
    ref = DataConfig.ref(ref)
    return measure.load_dataset(ref.path, name=ref.name or Path(ref.path).stem, limit=ref.rows)


def _targets(config: NasConfig) -> list[Target]:
    return [load_target(spec) for spec in config.targets]


def _checkpoint(config: NasConfig, key: str) -> Path:
    """Return the file that a training is kept in while it goes on."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser())
    given = config.train.checkpoint_folder
    folder = Path(given) if given else cache / "mlflow-compress" / "checkpoints"
    name = hashlib.sha256(f"{config.name} {key}".encode()).hexdigest()[:32]
    return folder / f"{name}.pt"
