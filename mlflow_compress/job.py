"""The main job: source, search, variants, registry versions, promotion per target.

This is the one module above all rooms; the command line and the Python API are thin layers on it.
"""

import hashlib
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlflow_compress import measure, registry, techniques
from mlflow_compress.config import Config, DataConfig
from mlflow_compress.errors import CompressError, ConfigError
from mlflow_compress.mlflow_plugin import (
    ResolvedSource,
    Tracker,
    connect,
    download_packed,
    resolve,
)
from mlflow_compress.records import Decision, Trial, Variant
from mlflow_compress.search import (
    OBJECTIVES,
    SearchInfo,
    Space,
    Strategy,
    TrialEvaluator,
    front,
    get_strategy,
    run_search,
)
from mlflow_compress.targets import Target, load_target

if TYPE_CHECKING:
    import mlflow
    import onnx

__all__ = ["DEFAULT_RECIPES", "Outcome", "Watcher", "run"]

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


class Watcher:
    """Is told how a job goes; the methods do nothing here."""

    def stage(self, text: str, total: int | None = None) -> None:
        """Hear that a stage begins, with the number of trials it has at the most."""

    def trial(self, trial: Trial) -> None:
        """Hear that a trial is finished."""


@dataclass(frozen=True)
class Outcome:
    """What a job did.

    Attributes:
        source: the source's URI with its version resolved.
        registered_as: the registered model of the variants.
        trials: every trial, in order.
        front: the trials that no other beats on all objectives.
        registered: the registered variants that matter here: the front, each target's best, and
            what an alias points to.
        decisions: one per target.
        tracking_uri: where all of it is recorded.
    """

    source: str
    registered_as: str
    trials: tuple[Trial, ...]
    front: tuple[Trial, ...]
    registered: tuple[Variant, ...]
    decisions: tuple[Decision, ...]
    tracking_uri: str

    @property
    def exit_code(self) -> int:
        """0, or 3 when some target has no feasible variant."""
        return 3 if any(d.outcome == "none feasible" for d in self.decisions) else 0

    def targets_of(self, variant: Variant) -> list[str]:
        """Return the targets whose alias points to a variant."""
        return [
            decision.target
            for decision in self.decisions
            if decision.version is not None
            and decision.version == variant.version
            and decision.outcome != "none feasible"
        ]


@dataclass(frozen=True)
class _Plan:
    """What is checked before anything is run or written."""

    config: Config
    space: Space
    strategy: Strategy
    strategy_name: str
    targets: tuple[Target, ...]
    evaluation: measure.Dataset
    calibration: measure.Dataset | None
    train: measure.Dataset | None
    objectives: tuple[str, ...]
    trials: int = field(default=0)


def run(
    config: Config,
    *,
    source: Any = None,
    datasets: Mapping[str, measure.Dataset] | None = None,
    watcher: Watcher | None = None,
) -> Outcome:
    """Run the whole job.

    Args:
        config: a checked configuration.
        source: an ``onnx.ModelProto`` or ``torch.nn.Module`` in place of ``config.source``, which
            is then its name only.
        datasets: rows in memory by role (``calibration``, ``evaluation``) in place of the
            configuration's.
        watcher: is told how it goes.

    Raises:
        CompressError: with the exit code that the command line ends with. Trials finished before
            are kept and reused by the next run.
    """
    watcher = watcher or Watcher()
    watcher.stage("checking the configuration and the data")
    plan = _plan(config, datasets or {})
    with tempfile.TemporaryDirectory(prefix="mlflow-compress-") as folder:
        work_dir = Path(folder)
        watcher.stage("loading the source")
        client = connect(config.tracking_uri)
        resolved = resolve(config.source, work_dir, source=source, client=client)
        evaluator = _evaluator(plan, resolved, work_dir)
        name = config.register_as or f"{resolved.name}-edge"
        example = {key: rows[:2] for key, rows in evaluator.evaluation.inputs.items()}
        tracker = Tracker(config.experiment or name, client.tracking_uri, input_example=example)
        watcher.stage(f"searching ({plan.strategy_name})", plan.trials)
        trials = run_search(
            plan.space,
            plan.strategy,
            evaluator,
            tracker,
            _info(plan, evaluator, name),
            trials=plan.trials,
            objectives=plan.objectives,
            seed=config.search.seed,
            on_trial=watcher.trial,
        )
        watcher.stage("registering and promoting")
        return _register_and_promote(plan, trials, client, name, evaluator, tracker.experiment)


def _plan(config: Config, given: Mapping[str, measure.Dataset]) -> _Plan:
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
    strategy = get_strategy(strategy_name)
    strategy.points(space)
    evaluation = given.get("evaluation") or _load(config.data.evaluation, "evaluation")
    calibration = given.get("calibration") or _load_optional(config.data.calibration, "calibration")
    train = given.get("train") or _load_optional(config.data.train, "train")
    _check_rows(space, where, calibration, train)
    _check_labels(targets, evaluation)
    quality = "agreement" if evaluation.labels is None else "accuracy"
    objectives = config.search.objectives or ("rate", quality)
    _check_objectives(objectives, config, evaluation)
    trials = int(min(config.search.trials, space.size))
    return _Plan(
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


def _load(ref: Any, role: str) -> measure.Dataset:
    ref = DataConfig.ref(ref)
    return measure.load_dataset(ref.path, name=ref.name or Path(ref.path).stem, limit=ref.rows)


def _load_optional(ref: Any, role: str) -> measure.Dataset | None:
    return None if ref is None else _load(ref, role)


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


def _check_labels(targets: Sequence[Target], evaluation: measure.Dataset) -> None:
    if evaluation.labels is not None:
        return
    for target in targets:
        for key in ("min", "max_drop"):
            if getattr(target.accuracy, key) is not None:
                raise ConfigError(
                    f"target {target.name!r}: accuracy.{key} needs labels, and data.evaluation "
                    f"{evaluation.name!r} has none: add an array 'labels', or use min_agreement "
                    "or max_kl"
                )


def _check_objectives(
    objectives: Sequence[str], config: Config, evaluation: measure.Dataset
) -> None:
    for name in objectives:
        if name not in OBJECTIVES:
            allowed = ", ".join(OBJECTIVES)
            raise ConfigError(f"search.objectives: must be among {allowed}, got {name!r}")
    if "accuracy" in objectives and evaluation.labels is None:
        raise ConfigError("search.objectives: accuracy needs labels; use agreement")
    if "latency" in objectives and config.search.latency_rounds == 0:
        raise ConfigError("search.objectives: latency needs search.latency_rounds above 0")


def _evaluator(plan: _Plan, source: ResolvedSource, work_dir: Path) -> TrialEvaluator:
    """Bring the source into ONNX, fit the data to it, and run it once on all rows."""
    rows = plan.calibration or plan.train or plan.evaluation
    model = _to_onnx(source, rows)
    normal = techniques.normalize(model)
    calibration, train = plan.calibration, plan.train
    config = plan.config
    evaluator = TrialEvaluator(
        source=normal,
        uri=source.uri,
        source_digest=hashlib.sha256(normal.SerializeToString(deterministic=True)).hexdigest(),
        source_bytes=measure.weight_bytes(model),
        evaluation=measure.check_fits(plan.evaluation, normal),
        calibration=None if calibration is None else measure.check_fits(calibration, normal),
        train=None if train is None else measure.check_fits(train, normal),
        work_dir=work_dir,
        metric=config.data.metric,
        threads=tuple(sorted({t.execution.threads for t in plan.targets} or {1})),
        latency_rounds=config.search.latency_rounds,
        seed=config.search.seed,
    )
    evaluator.check_source()
    return evaluator


def _to_onnx(source: ResolvedSource, rows: measure.Dataset) -> "onnx.ModelProto":
    if source.model is not None:
        return source.model
    from mlflow_compress.techniques.torch_export import export_torch

    return export_torch(source.module, rows.head(8).inputs)


def _info(plan: _Plan, evaluator: TrialEvaluator, name: str) -> SearchInfo:
    datasets = {"evaluation": evaluator.evaluation.ref}
    if evaluator.calibration is not None:
        datasets["calibration"] = evaluator.calibration.ref
    if evaluator.train is not None:
        datasets["train"] = evaluator.train.ref
    return SearchInfo(
        name=name,
        source=evaluator.uri,
        source_digest=evaluator.source_digest,
        source_bytes=evaluator.source_bytes,
        strategy=plan.strategy_name,
        planned=plan.trials,
        datasets=datasets,
        config=plan.config.model_dump(mode="json"),
    )


def _register_and_promote(
    plan: _Plan,
    trials: tuple[Trial, ...],
    client: "mlflow.MlflowClient",
    name: str,
    evaluator: TrialEvaluator,
    experiment: str,
) -> Outcome:
    on_front = front(trials, plan.objectives)
    made = [trial.variant for trial in trials if trial.variant is not None]
    if not made:
        first = trials[0].error if trials else "no recipe was tried"
        raise CompressError(f"all {len(trials)} trials failed; the first: {first}")
    rows = evaluator.evaluation.digest
    chosen = {t.variant.key: t.variant for t in on_front if t.variant is not None}
    for target in plan.targets:
        best, _ = registry.best_for(made, target, rows)
        if best is not None:
            chosen.setdefault(best.key, best)
    fresh = registry.register_variants(client, name, list(chosen.values()), targets=plan.targets)
    decisions = registry.promote(
        client,
        name,
        plan.targets,
        rows=rows,
        rescore=lambda variant: _rescore(variant, evaluator, client),
        experiment=experiment,
    )
    held = {decision.version for decision in decisions} - {one.version for one in fresh}
    older = [one for one in registry.read_variants(client, name) if one.version in held]
    return Outcome(
        source=evaluator.uri,
        registered_as=name,
        trials=trials,
        front=on_front,
        registered=(*fresh, *older),
        decisions=tuple(decisions),
        tracking_uri=client.tracking_uri,
    )


def _rescore(variant: Variant, evaluator: TrialEvaluator, client: "mlflow.MlflowClient") -> Variant:
    """Score a registered variant on today's rows, so that it is compared on equal terms."""
    with tempfile.TemporaryDirectory(prefix="mlflow-compress-") as folder:
        return evaluator.rescore(variant, download_packed(variant.model_uri, folder, client))
