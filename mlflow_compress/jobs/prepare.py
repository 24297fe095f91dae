"""What a job needs, checked before anything runs: targets, recipes, rows, the source."""

import hashlib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlflow_compress import measure, techniques
from mlflow_compress.base.checkpoints import checkpoint_folder
from mlflow_compress.base.files import own_folder
from mlflow_compress.config.compress import Config, DataConfig, DataRef
from mlflow_compress.errors import ConfigError
from mlflow_compress.jobs.rows import load
from mlflow_compress.mlflow_plugin import ResolvedSource
from mlflow_compress.search import (
    OBJECTIVES,
    Executor,
    Inline,
    Objective,
    Options,
    Process,
    Reward,
    Screen,
    Space,
    StepCache,
    Strategy,
    TrialEvaluator,
    check_limits,
    check_workers,
    check_yardstick,
    get_executor,
    get_strategy,
    is_cached,
    look_at_source,
    usual_workers,
)
from mlflow_compress.targets import Target, limits_of, load_target
from mlflow_compress.targets.limits import interval_level

if TYPE_CHECKING:
    import onnx

    from mlflow_compress.nas import Supernet

__all__ = [
    "DEFAULT_RECIPES",
    "Plan",
    "make_evaluator",
    "make_executor",
    "make_plan",
    "metric_of",
]

_log = logging.getLogger(__name__)

DEFAULT_RECIPES: list[Any] = [
    [
        {"prune": {"sparsity": {"choices": [0.5, 0.6, 0.7, 0.8, 0.9]}}},
        {"share": {"clusters": {"choices": [8, 16, 32, 64]}}},
    ],
    [{"share": {"clusters": {"choices": [16, 64]}}}],
    [],
]
"""What is tried when the configuration names no recipe: pruning with sharing, sharing alone, and
lossless packing. None of them needs calibration data."""


@dataclass(frozen=True)
class Plan:
    """What is checked before anything is run or written."""

    config: Config
    space: Space
    strategy: Strategy
    strategy_name: str
    targets: tuple[Target, ...]
    evaluation: measure.Dataset
    calibration: measure.Dataset | None
    train: measure.Dataset | None
    objectives: tuple[Objective, ...]
    trials: int = field(default=0)

    @property
    def is_labelled(self) -> bool:
        """Whether there is something to score the evaluation rows by."""
        return _is_labelled(self.config.data, self.evaluation)


def make_plan(config: Config, given: Mapping[str, measure.Dataset]) -> Plan:
    """Check everything that needs no tracking server."""
    targets = tuple(load_target(target) for target in config.targets)
    names = [target.name for target in targets]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ConfigError(f"targets: {twice!r} stands there twice; names are aliases, keep one")
    recipes = [config.recipe] if config.recipe is not None else config.recipes
    where = "recipe" if config.recipe is not None else "recipes"
    space = Space.parse(DEFAULT_RECIPES if recipes is None else recipes, where)
    strategy_name = config.search.strategy or _fitting_strategy(space, config.search.trials)
    if isinstance(config.search.sensitivity, str) and not any(space.layer_dimensions()):
        raise ConfigError(
            f"search.sensitivity {config.search.sensitivity}: no recipe has a range per layer, "
            "such as prune: {sparsity: {layers: {fc1: {low: 0.5, high: 0.9}}}}; give one, or "
            "set true"
        )
    strategy = get_strategy(strategy_name)
    strategy.points(space)
    data = config.data
    evaluation = given.get("evaluation") or load(data.evaluation, data.specs)
    calibration = given.get("calibration") or _load_optional(data.calibration, data)
    train = given.get("train") or _load_optional(data.train, data)
    _check_rows(space, where, calibration, train)
    for target in targets:
        check_limits(
            limits_of(target),
            metric_of(config.data),
            evaluation,
            named=lambda limit: f"target {limit.target.name!r}: {limit.key}",
            remedy="set data.labels: source, or use min_agreement or another that needs none",
        )
    objectives = _objectives(config, targets, evaluation)
    trials = int(min(config.search.trials, space.size))
    _check_workers(config)
    return Plan(
        config,
        space,
        strategy,
        strategy_name,
        targets,
        evaluation,
        calibration,
        train,
        objectives,
        trials,
    )


def _fitting_strategy(space: Space, trials: int) -> str:
    if space.is_fixed:
        return "manual"
    return "grid" if space.size <= trials else "random"


def _load_optional(ref: str | DataRef | None, data: DataConfig) -> measure.Dataset | None:
    return None if ref is None else load(ref, data.specs)


def _check_rows(
    space: Space,
    where: str,
    calibration: measure.Dataset | None,
    train: measure.Dataset | None,
) -> None:
    """Refuse recipes that need rows which are not there; training rows also calibrate."""
    if train is not None:
        return
    for index, recipe in space.corners():
        if techniques.needs_training(recipe):
            raise ConfigError(f"{where}[{index}]: {recipe.label!r} needs data.train")
        if calibration is None and techniques.needs_calibration(recipe):
            raise ConfigError(
                f"{where}[{index}]: {recipe.label!r} needs calibration rows: set data.calibration "
                "(inputs as in data.evaluation, labels not needed)"
            )


def _check_workers(config: Config) -> None:
    """Refuse settings of workers that would count for nothing."""
    search = config.search
    kind = get_executor(search.executor, Options())
    if search.cluster and isinstance(kind, Inline | Process):
        raise ConfigError(
            f"search.cluster: the executor {search.executor} uses none, got {search.cluster!r}: "
            "set search.executor to dask or ray"
        )
    is_here = not search.cluster
    check_workers(search.executor, search.workers, search.window, is_here=is_here)


def metric_of(data: DataConfig) -> measure.MetricSpec:
    """Return the metric that a configuration asks for."""
    told = {"name": data.metric} if isinstance(data.metric, str) else data.metric.model_dump()
    return measure.MetricSpec(**told, labels=data.labels)


def _is_labelled(data: DataConfig, evaluation: measure.Dataset) -> bool:
    return evaluation.has_labels or data.labels == "source"


def _objectives(
    config: Config, targets: Sequence[Target], evaluation: measure.Dataset
) -> tuple[Objective, ...]:
    """Return what the search goes for: what is asked, or what fits the targets and the rows."""
    is_labelled = _is_labelled(config.data, evaluation)
    quality = "accuracy" if is_labelled else "fidelity"
    rewarded = [target for target in targets if target.reward is not None]
    all_rewarded = bool(targets) and len(rewarded) == len(targets)
    default = ("reward",) if all_rewarded else ("rate", quality)
    found: list[Objective] = []
    for name in config.search.objectives or default:
        if name not in (*OBJECTIVES, "reward"):
            allowed = ", ".join((*OBJECTIVES, "reward"))
            raise ConfigError(f"search.objectives: must be among {allowed}, got {name!r}")
        if name == "accuracy" and not is_labelled:
            raise ConfigError("search.objectives: accuracy needs labels; use fidelity")
        if name in ("latency", "reward") and config.search.latency_rounds == 0:
            raise ConfigError(f"search.objectives: {name} needs search.latency_rounds above 0")
        if name == "reward" and not rewarded:
            raise ConfigError(
                "search.objectives: reward needs a target with objective: reward, which says the "
                "latency that it is about"
            )
        unmeasured = next((t for t in rewarded if t.unmeasured_providers), None)
        if name == "reward" and unmeasured is not None:
            raise ConfigError(
                f"target {unmeasured.name!r}: objective reward needs its latency, and this machine "
                f"measures none with {', '.join(unmeasured.unmeasured_providers)}: set measured_on "
                "to a device that does"
            )
        found += [Reward(target) for target in rewarded] if name == "reward" else [name]
    return tuple(found)


def make_evaluator(plan: Plan, source: ResolvedSource, work_dir: Path) -> TrialEvaluator:
    """Bring the source into ONNX, fit the data to it, and run it once on all rows."""
    rows = plan.calibration or plan.train or plan.evaluation
    supernet = _supernet(source, rows)
    model = _to_onnx(source, rows) if supernet is None else supernet.largest()
    normal = techniques.normalize(model)
    config = plan.config
    fitted = measure.fit_rows(
        normal,
        plan.evaluation,
        plan.calibration,
        plan.train,
        specs=config.data.specs,
        stream=config.data.stream,
    )
    digest = hashlib.sha256(normal.SerializeToString(deterministic=True))
    if supernet is not None:
        digest.update(supernet.data)
    evaluator = TrialEvaluator(
        source=normal,
        uri=source.uri,
        source_digest=digest.hexdigest(),
        source_bytes=measure.weight_bytes(model),
        evaluation=fitted.evaluation,
        outputs=look_at_source(model, normal, fitted.evaluation, config.data.outputs, plan.targets),
        calibration=fitted.calibration,
        train=fitted.train,
        work_dir=work_dir,
        metric=metric_of(config.data),
        threads=tuple(sorted({t.execution.threads for t in plan.targets} or {1})),
        latency_rounds=config.search.latency_rounds,
        seed=config.search.seed,
        cache=_cache(config, work_dir),
        screen=Screen(plan.targets, plan.objectives) if config.search.screen else None,
        checkpoints=None
        if plan.train is None
        else checkpoint_folder(config.search.checkpoint_folder),
        subnets=supernet,
        timed_on=_timed_on(plan),
        level=interval_level(plan.targets),
    )
    evaluator.check_source()
    check_yardstick(evaluator, plan.targets)
    return evaluator


def make_executor(plan: Plan) -> Executor:
    """Return what the trials run on, not opened yet.

    Raises:
        ConfigError: there is no such executor.
    """
    search = plan.config.search
    workers = search.workers
    if not search.cluster:
        workers = min(usual_workers(workers, search.window), max(plan.trials, 1))
    timed = search.latency_rounds > 0
    options = Options(workers, search.cluster, search.wait, timed)
    executor = get_executor(search.executor, options)
    # one process beside this one would only cost its start
    return Inline(options) if workers == 1 and isinstance(executor, Process) else executor


def _cache(config: Config, work_dir: Path) -> StepCache | None:
    size, folder = config.search.cache, config.search.cache_folder
    if not size:
        return None
    if not folder:
        return StepCache(work_dir / "steps", size)
    try:
        own_folder(Path(folder), "steps of recipes", is_cached)
    except OSError as error:
        told = "search.cache_folder %s: %s: steps are kept for this search alone"
        _log.warning(told, folder, error.strerror)
        return StepCache(work_dir / "steps", size)
    return StepCache(Path(folder), size)


def _supernet(source: ResolvedSource, rows: measure.Dataset) -> "Supernet | None":
    """Return the supernet that a source is, None when it is one network."""
    if source.kind != "pytorch":
        return None
    from mlflow_compress import nas

    if isinstance(source.given, nas.ElasticNet):
        return nas.Supernet.pack(source.given, next(iter(rows.inputs)))
    file = None if source.folder is None else source.folder / "extra_files" / nas.SUPERNET_FILE
    return nas.Supernet.read(file) if file is not None and file.is_file() else None


def _timed_on(plan: Plan) -> tuple[Target, ...]:
    """Return the targets elsewhere whose latency the search goes for, each device once."""
    goals = [goal.target for goal in plan.objectives if isinstance(goal, Reward)]
    there = {target.place: target for target in goals if not target.place.is_local}
    return tuple(there.values())


def _to_onnx(source: ResolvedSource, rows: measure.Dataset) -> "onnx.ModelProto":
    if source.model is not None:
        return source.model
    from mlflow_compress.techniques.training.export import export_torch

    return export_torch(source.module, rows.head(8).plain("a torch source"))
