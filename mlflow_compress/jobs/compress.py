"""The main job: source, search, variants, registry versions, promotion per target.

This is the one module above all rooms; the command line and the Python API are thin layers on it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlflow_compress import measure, registry, techniques
from mlflow_compress.base.foreign import no_exit
from mlflow_compress.base.scratch import ScratchFolder
from mlflow_compress.config.compress import Config
from mlflow_compress.errors import CompressError, ConfigError
from mlflow_compress.jobs.devices import Devices
from mlflow_compress.jobs.foresight import check_search, idle_settings
from mlflow_compress.jobs.prepare import (
    DEFAULT_RECIPES,
    Plan,
    make_evaluator,
    make_executor,
    make_plan,
)
from mlflow_compress.mlflow_plugin import Tracker, connect, download_packed, resolve
from mlflow_compress.records import Decision, Trial, Variant
from mlflow_compress.search import (
    Budget,
    Point,
    SearchInfo,
    SearchOptions,
    TrialEvaluator,
    bind,
    front,
    levels_of,
    run_search,
    seed_points,
    sensitivity,
    sensitivity_rows,
    shrink,
    violations,
)
from mlflow_compress.tracking.names import variants_name

if TYPE_CHECKING:
    import mlflow

    from mlflow_compress.techniques.data import Epoch

__all__ = ["DEFAULT_RECIPES", "Outcome", "Watcher", "promote", "run"]


class Watcher:
    """Is told how a job goes; the methods do nothing here."""

    def stage(self, text: str, total: int | None = None) -> None:
        """Hear that a stage begins, with the number of trials it has at the most."""

    def trial(self, trial: Trial) -> None:
        """Hear that a trial is finished."""

    def epoch(self, epoch: "Epoch") -> None:
        """Hear of an epoch of a training in this process."""


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
        emulated: targets whose latency was measured here, where this machine stands for theirs.
        problems: by target, what went wrong on its device.
        silent: targets for which nothing could be measured on their device.
    """

    source: str
    registered_as: str
    trials: tuple[Trial, ...]
    front: tuple[Trial, ...]
    registered: tuple[Variant, ...]
    decisions: tuple[Decision, ...]
    tracking_uri: str
    emulated: tuple[str, ...] = ()
    problems: Mapping[str, str] = field(default_factory=dict)
    silent: frozenset[str] = frozenset()

    @property
    def exit_code(self) -> int:
        """0, 5 when a device gave nothing, or 3 when some target has no feasible variant."""
        if self.silent:
            return 5
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


@no_exit("a plugin or a function of the configuration")
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
    plan = make_plan(config, datasets or {})
    check_search(plan)
    for line in idle_settings(plan):
        watcher.stage(f"note: {line}")
    devices = Devices(plan.targets, config.search.latency_rounds, config.search.seed, watcher.stage)
    devices.verify()
    with ScratchFolder() as folder:
        work_dir = Path(folder)
        watcher.stage("loading the source")
        client = connect(config.tracking_uri)
        resolved = resolve(
            config.source, work_dir, source=source, client=client, trust=config.trust is not False
        )
        evaluator = make_evaluator(plan, resolved, work_dir)
        for output in evaluator.outputs:
            watcher.stage(f"output {output.name}: {output.label}, as {output.reason}")
        name = variants_name(resolved.name, config.register_as)
        example = evaluator.evaluation.fed.example(2)
        tracker = Tracker(config.experiment or name, client.tracking_uri, input_example=example)
        initial: list[Point] = []
        if config.search.sensitivity:
            watcher.stage("measuring what each layer bears")
            plan, initial, notes = _look_at_layers(plan, evaluator, tracker)
            if notes:
                watcher.stage(notes)
        watcher.stage(f"searching ({plan.strategy_name})", plan.trials)
        trials = run_search(
            plan.space,
            plan.strategy,
            evaluator,
            tracker,
            _info(plan, evaluator, name),
            SearchOptions(
                budget=_budget(plan),
                objectives=plan.objectives,
                seed=config.search.seed,
                violations=lambda variant: violations(variant, plan.targets),
                on_trial=watcher.trial,
                on_epoch=watcher.epoch,
                executor=make_executor(plan),
                window=config.search.window,
                in_order=not config.search.free_order,
                initial=initial,
            ),
        )
        trials = _measure_on_devices(devices, trials, tracker, evaluator)
        watcher.stage("registering and promoting")
        outcome = _register_and_promote(plan, trials, client, name, evaluator, tracker.experiment)
        return replace(outcome, problems=devices.problems, silent=frozenset(devices.silent))


def _look_at_layers(
    plan: Plan, evaluator: TrialEvaluator, tracker: Tracker
) -> tuple[Plan, list[Point], str]:
    """Measure each layer on the calibration rows where there are any, log it, and act on it.

    Returns:
        The plan with what is left of the space, the points to try first, and what was done.
    """
    rows = evaluator.calibration or evaluator.evaluation
    context = techniques.Context(calibration=rows.fed, seed=evaluator.seed)
    # Labels of other rows than the evaluation's need not fit the metric, and are not needed.
    scored = rows if rows is evaluator.evaluation else measure.Dataset(rows.inputs, name=rows.name)
    mode, space = plan.config.search.sensitivity, plan.space
    bounds = () if mode is True else bind(space, evaluator.source)
    effects = sensitivity(
        evaluator.source,
        scored,
        context,
        metric=evaluator.metric,
        outputs=evaluator.outputs,
        by_layer=levels_of(bounds) if bounds else None,
        options={bound.of.technique: bound.of.options for bound in reversed(bounds)},
    )
    notes: list[str] = []
    if mode in ("shrink", "both"):
        space, cuts = shrink(
            space,
            bounds,
            effects,
            plan.targets,
            scored.rows,
            evaluator.spec.label,
            evaluator.read_by,
        )
        notes.append(f"space cut: {'; '.join(cuts) or 'nothing'}")
    initial: list[Point] = []
    if mode in ("seed", "both") and plan.strategy.points(space) is None:
        initial = seed_points(space, bind(space, evaluator.source), effects)
        notes.append(f"{len(initial)} points from what each layer bears come first")
    text, table = ", ".join(notes), sensitivity_rows(effects)
    tracker.log_sensitivity(evaluator.uri, evaluator.source_digest, table, scored.ref, text)
    return replace(plan, space=space, trials=int(min(plan.trials, space.size))), initial, text


def _budget(plan: Plan) -> Budget:
    search = plan.config.search
    seconds = None if search.minutes is None else 60 * search.minutes
    return Budget(plan.trials, seconds, search.patience)


def _measure_on_devices(
    devices: Devices, trials: tuple[Trial, ...], tracker: Tracker, evaluator: TrialEvaluator
) -> tuple[Trial, ...]:
    """Measure where the targets run, and keep it with the trials."""

    def file_of(trial: Trial) -> Path:
        if trial.path:
            return Path(trial.path)
        assert trial.variant is not None
        folder = evaluator.work_dir / f"reused-{trial.key[:16]}"
        folder.mkdir(exist_ok=True)
        return download_packed(trial.variant.model_uri, folder, tracker.client)

    def source() -> Path:
        path = evaluator.work_dir / "source-as-measured.onnx"
        if not path.exists():
            path.write_bytes(evaluator.source.SerializeToString())
        return path

    rows = evaluator.evaluation
    inputs, batch = rows.fed.example(1), evaluator.fixed_batch or 1
    done = devices.measure(trials, rows.digest, file_of, source, inputs, batch)
    for before, after in zip(trials, done, strict=True):
        if after != before:
            tracker.trial_measured(after)
    return done


def promote(
    config: Config,
    *,
    only: Sequence[str] = (),
    dry_run: bool = False,
    take_over: bool = False,
    require_approval: bool = False,
    watcher: Watcher | None = None,
) -> list[Decision]:
    """Decide anew on the variants that are registered, without a search.

    The incumbent is scored on the configuration's evaluation rows; other variants that were
    scored on other rows do not count.

    Args:
        config: a checked configuration.
        only: names of the targets to decide for; all of the configuration's by default.
        dry_run: decide only, write nothing.
        take_over: decide also where an alias was moved by hand.
        require_approval: only ask for each promotion.
        watcher: is told how it goes.

    Returns:
        One decision per target, in the order of the configuration.

    Raises:
        CompressError: with the exit code that the command line ends with.
    """
    watcher = watcher or Watcher()
    watcher.stage("checking the configuration and the data")
    plan = make_plan(config, {})
    targets = [target for target in plan.targets if not only or target.name in only]
    known = [target.name for target in plan.targets]
    missing = next((name for name in only if name not in known), None)
    if missing is not None or not targets:
        told = f"no target {missing!r}" if missing is not None else "no targets"
        raise ConfigError(f"the configuration has {told} (targets: {', '.join(known) or 'none'})")
    with ScratchFolder() as folder:
        watcher.stage("loading the source")
        client = connect(config.tracking_uri)
        resolved = resolve(config.source, folder, client=client, trust=config.trust is not False)
        name = variants_name(resolved.name, config.register_as)
        registry.require_model(client, name)
        evaluator = make_evaluator(plan, resolved, Path(folder))
        watcher.stage("promoting")
        return registry.promote(
            client,
            name,
            targets,
            rows=evaluator.evaluation.digest,
            rescore=lambda variant: _rescore(variant, evaluator, client),
            experiment=config.experiment,
            dry_run=dry_run,
            take_over=take_over,
            require_approval=require_approval,
        )


def _info(plan: Plan, evaluator: TrialEvaluator, name: str) -> SearchInfo:
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
    plan: Plan,
    trials: tuple[Trial, ...],
    client: "mlflow.MlflowClient",
    name: str,
    evaluator: TrialEvaluator,
    experiment: str,
) -> Outcome:
    on_front = front(trials, plan.objectives)
    made = [trial.variant for trial in trials if trial.variant is not None]
    dropped = [trial.error for trial in trials if trial.state == "dropped"]
    if not made and not dropped:
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
        # nothing else is dropped before there is a variant
        missing="" if made else dropped[0],
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
        emulated=tuple(target.name for target in plan.targets if target.emulated),
    )


def _rescore(variant: Variant, evaluator: TrialEvaluator, client: "mlflow.MlflowClient") -> Variant:
    """Score a registered variant on today's rows, so that it is compared on equal terms."""
    with ScratchFolder() as folder:
        return evaluator.rescore(variant, download_packed(variant.model_uri, folder, client))
