"""The smallest model that still does its job: one ONNX file in, one packed file out.

No configuration, server or labels. A *ladder* is a list of recipes from gentle to strong; the
strongest rung that passes the gate is found by bisection, on rows that no technique has looked at.
The smallest file of all ladders is then confirmed on rows that had no part in choosing it either.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from mlflow_compress import measure, packed, techniques
from mlflow_compress.errors import ConfigError, DataError, TechniqueError
from mlflow_compress.jobs.ladders import Ladder, folded, ladders
from mlflow_compress.measure.bounds import rows_needed
from mlflow_compress.records import (
    Gate,
    InputSpec,
    Output,
    Profile,
    Recipe,
    Report,
    Trial,
)
from mlflow_compress.search import (
    TrialEvaluator,
    check_limits,
    check_yardstick,
    look_at_source,
)
from mlflow_compress.search.worker import run_trial
from mlflow_compress.targets import AccuracyLimits, Target, judge, limits_of

__all__ = [
    "Confirmed",
    "Smallest",
    "Watcher",
    "check",
    "halves",
    "smallest",
    "split_rows",
    "write",
]

_CHOOSING = 0.8
"""Confidence of the bounds that choose: what they let through too easily is not confirmed."""

_LEAST_ROWS = 8
"""Calibration rows, when there are no others."""


class Watcher:
    """Is told how the search goes; the methods do nothing here."""

    def outputs(self, outputs: Sequence[Output]) -> None:
        """Hear what the source's outputs are."""

    def trial(self, trial: Trial, gates: tuple[Gate, ...]) -> None:
        """Hear of a trial and its gates on the rows that choose."""

    def confirmed(self, trial: Trial, confirmed: "Confirmed") -> None:
        """Hear what the rows that confirm said of a trial."""


def check(target: Target, report: Report) -> tuple[Gate, ...]:
    """Check a report against a target's limits; each gate says how it stands, met or not."""
    return tuple(
        replace(limit.gate(report), reason=limit.verdict(report)) for limit in judge(target, report)
    )


@dataclass(frozen=True)
class Smallest:
    """What the search came to.

    Attributes:
        best: the smallest trial that was confirmed; the lossless one when no other was.
        is_lossless: whether only lossless packing passed.
        trials: everything tried, in order.
        gates: the gates of each trial with a variant, by its key, on the rows that chose.
        confirmed: what the rows that confirm said, by key, of the trials that were brought to them.
        rows: the rows that confirmed.
        target: what was asked.
        outputs: what the outputs are, and so how they were judged.
    """

    best: Trial
    is_lossless: bool
    trials: tuple[Trial, ...]
    gates: dict[str, tuple[Gate, ...]] = field(repr=False)
    confirmed: "dict[str, Confirmed]" = field(repr=False)
    rows: measure.Dataset = field(repr=False)
    target: Target = field(repr=False)
    outputs: tuple[Output, ...] = ()

    @property
    def waiting(self) -> "tuple[Trial, int] | None":
        """The smallest trial that more rows may confirm, and about how many more that takes.

        Its numbers keep every limit, and only their intervals do not. None when there is none.
        """
        size = _size(self.best)
        smaller = (trial for trial in self.trials if _size(trial) < size)
        for trial in sorted(smaller, key=_size):
            more = self._rows_needed(trial)
            if more:
                return trial, more
        return None

    def _rows_needed(self, trial: Trial) -> int | None:
        """Return how many more confirming rows a trial takes, None when more would not do."""
        if trial.variant is None:
            return None
        confirmed = self.confirmed.get(trial.key)
        report = trial.variant.report if confirmed is None else confirmed.report
        needed = 0
        for limit in judge(self.target, report):
            if limit.gate(report).passed:
                continue
            bound = limit.doubt(report)
            more = None if bound is None else rows_needed(bound, limit.bound)
            if more is None:
                return None
            needed = max(needed, more)
        return needed

    @property
    def nearest_miss(self) -> Trial | None:
        """The largest trial that is smaller than the best and fails a gate: why not smaller."""
        size = _size(self.best)
        missed = [t for t in self.trials if _size(t) < size and not self.passes(t)]
        return max(missed, key=_size, default=None)

    def passes(self, trial: Trial) -> bool:
        """Whether every gate passed, on all rows that a trial was brought to."""
        return all(gate.passed for gate in self.gates_of(trial)) and trial.variant is not None

    def gates_of(self, trial: Trial) -> tuple[Gate, ...]:
        """Return the gates of a trial on the rows that confirm, else on those that chose."""
        confirmed = self.confirmed.get(trial.key)
        return confirmed.gates if confirmed is not None else self.gates.get(trial.key, ())


@dataclass(frozen=True)
class Confirmed:
    """A trial on the rows that confirm: its numbers there, and its gates."""

    report: Report
    gates: tuple[Gate, ...]

    @property
    def passed(self) -> bool:
        """Whether it keeps every limit."""
        return all(gate.passed for gate in self.gates)


def split_rows(
    calibration: measure.Dataset,
) -> tuple[measure.Dataset, measure.Dataset]:
    """Split calibration rows into those that techniques see and those that are kept aside.

    Every other row is kept aside (:func:`measure.held_back`), so that data sorted by class are
    split evenly.

    Raises:
        DataError: there are too few rows to keep any aside.
    """
    if calibration.rows < _LEAST_ROWS:
        raise DataError(
            f"data {calibration.name!r}: {calibration.rows} rows are too few to keep some aside "
            f"for the gate: give at least {_LEAST_ROWS}, or --evaluation; where rows are along "
            "another axis, say so with --input NAME=axis:K"
        )
    kept = measure.held_back(calibration, 2)
    seen = np.setdiff1d(np.arange(calibration.rows), kept)
    return calibration.take(seen), calibration.take(kept, name=f"{calibration.name}, kept aside")


def halves(rows: measure.Dataset) -> tuple[measure.Dataset, measure.Dataset]:
    """Split rows into those that choose among variants and those that confirm the choice."""
    confirming = measure.held_back(rows, 2)
    choosing = np.setdiff1d(np.arange(rows.rows), confirming)
    return (
        rows.take(choosing, name=f"{rows.name}, to choose"),
        rows.take(confirming, name=f"{rows.name}, to confirm"),
    )


def smallest(  # noqa: PLR0913 - options of a command
    model: onnx.ModelProto,
    *,
    limits: AccuracyLimits,
    work_dir: Path,
    calibration: measure.Dataset | None = None,
    evaluation: measure.Dataset | None = None,
    outputs: Mapping[str, str | Mapping[str, Any]] | None = None,
    metric: str | measure.MetricSpec = "accuracy",
    profile: Profile = "portable",
    effort: int = 3,
    plan: Sequence[Ladder] | None = None,
    seed: int = 0,
    watcher: Watcher | None = None,
    specs: Mapping[str, InputSpec] | None = None,
    stream: int | None = None,
) -> Smallest:
    """Search for the smallest packed model that keeps within ``limits`` on rows it never saw.

    Args:
        model: the source, as it came.
        limits: what must be kept.
        work_dir: an existing folder for the packed files of all trials.
        calibration: inputs that techniques may look at. Without ``evaluation`` every other row
            is kept aside for the gate.
        evaluation: rows for the gate, with labels when a limit needs them. Half of them choose,
            half confirm.
        outputs: what outputs are, by name, where that is not to be told.
        metric: the accuracy metric; see :func:`mlflow_compress.measure.find_metric`.
        profile: ``portable`` or ``compact``.
        effort: 1 (seconds) to 5.
        plan: what to try, in place of the ladders of ``effort``.
        seed: seeds everything random.
        watcher: is told how it goes.
        specs: what is said of the model's inputs.
        stream: a state begins anew every so many rows.

    Raises:
        ConfigError: a limit needs labels that are not there, or the rows cannot judge.
        DataError: the rows do not fit the model.
        SourceError: onnxruntime does not run the model, or our form of it computes otherwise.
    """
    normal = techniques.normalize(model)
    if evaluation is None:
        if calibration is None:
            raise ConfigError("rows are needed to check the result: give --calibration")
        calibration = measure.check_fits(calibration, normal, specs, stream)
        calibration, evaluation = split_rows(calibration)
    watcher = watcher or Watcher()
    target = Target("compress", accuracy=limits)
    check_limits(
        limits_of(target),
        measure.MetricSpec.of(metric),
        evaluation,
        named=lambda limit: f"--{limit.key.removeprefix('accuracy.').replace('_', '-')}",
        remedy="take the source's outputs with --labels source, or limit what needs none, such as "
        "--min-agreement",
    )
    fitted = measure.fit_rows(normal, evaluation, calibration, specs=specs, stream=stream)
    kinds = look_at_source(model, normal, fitted.evaluation, outputs, [target])
    watcher.outputs(kinds)
    evaluator = TrialEvaluator(
        source=normal,
        uri="",
        source_digest=hashlib.sha256(normal.SerializeToString(deterministic=True)).hexdigest(),
        source_bytes=measure.weight_bytes(model),
        evaluation=fitted.evaluation,
        outputs=kinds,
        calibration=fitted.calibration,
        work_dir=work_dir,
        metric=metric,
        latency_rounds=0,
        seed=seed,
    )
    evaluator.check_source()
    check_yardstick(evaluator, [target])
    choosing, confirming = (
        replace(evaluator, evaluation=half) for half in halves(fitted.evaluation)
    )
    if limits.confidence is not None:
        level = min(_CHOOSING, limits.confidence)
        choosing = replace(choosing, level=level)
        wanted = Target("compress", accuracy=replace(limits, confidence=level))
    else:
        wanted = target
    search = _Search(choosing, wanted, watcher)
    lossless = [search.attempt(Recipe((), profile)), search.attempt(folded(profile))]
    for ladder in plan or ladders(effort, profile, calibration is not None):
        search.climb(ladder)
    best, confirmed = _confirm(search, lossless, confirming, target, watcher)
    return Smallest(
        best,
        best in lossless,
        tuple(search.trials),
        search.gates,
        confirmed,
        confirming.evaluation,
        target,
        kinds,
    )


def _confirm(
    search: "_Search",
    lossless: Sequence[Trial],
    confirming: TrialEvaluator,
    target: Target,
    watcher: Watcher,
) -> tuple[Trial, dict[str, Confirmed]]:
    """Bring the smallest trials that pass to rows that had no part in anything, until one passes.

    Where one does not, the next gentler rung of its ladder is tried as well.

    Raises:
        TechniqueError: not even lossless packing worked.
    """
    confirmed: dict[str, Confirmed] = {}
    while waiting := [
        trial
        for trial in search.trials
        if search.passes(trial) and trial not in lossless and trial.key not in confirmed
    ]:
        trial = min(waiting, key=_size)
        assert trial.variant is not None  # as it passes
        report = confirming.rescore(trial.variant, Path(trial.path)).report
        found = Confirmed(report, check(target, report))
        confirmed[trial.key] = found
        watcher.confirmed(trial, found)
        if found.passed:
            return trial, confirmed
        search.attempt_gentler(trial)
    best = min((t for t in lossless if t.variant is not None), key=_size, default=None)
    if best is None or best.variant is None:
        raise TechniqueError(f"lossless packing failed: {lossless[0].error}")
    report = confirming.rescore(best.variant, Path(best.path)).report
    confirmed[best.key] = Confirmed(report, check(target, report))
    return best, confirmed


class _Search:
    """Tries recipes, each once."""

    def __init__(
        self,
        evaluator: TrialEvaluator,
        target: Target,
        watcher: Watcher,
    ) -> None:
        self.trials: list[Trial] = []
        self.gates: dict[str, tuple[Gate, ...]] = {}
        self._evaluator, self._target, self._watcher = evaluator, target, watcher
        self._known: dict[str, Trial] = {}
        self._ladders: list[Ladder] = []

    def attempt(self, recipe: Recipe) -> Trial:
        """Apply and measure a recipe; one that cannot be applied makes a failed trial."""
        key = self._evaluator.key(recipe)
        if key in self._known:
            return self._known[key]
        number, made = len(self.trials), run_trial(self._evaluator, recipe, key)
        trial = Trial(
            number, key, recipe, made.state, variant=made.variant, path=made.path, error=made.error
        )
        if made.variant is not None:
            self.gates[key] = check(self._target, made.variant.report)
        self._known[key] = trial
        self.trials.append(trial)
        self._watcher.trial(trial, self.gates.get(key, ()))
        return trial

    def passes(self, trial: Trial) -> bool:
        """Whether a trial has a variant and every gate passed."""
        return trial.variant is not None and all(gate.passed for gate in self.gates[trial.key])

    def climb(self, ladder: Ladder) -> None:
        """Find the strongest rung that passes, by bisection.

        Quality falls from rung to rung but for noise, so that the rung after the first that
        failed is tried as well.
        """
        self._ladders.append(ladder)
        low, high = -1, len(ladder.rungs)
        while high - low > 1:
            middle = (low + high) // 2
            passed = self.passes(self.attempt(ladder.rungs[middle]))
            low, high = (middle, high) if passed else (low, middle)
        if high < len(ladder.rungs) - 1:
            self.attempt(ladder.rungs[high + 1])

    def attempt_gentler(self, trial: Trial) -> None:
        """Try the rung before a trial's, on each ladder that it stands on."""
        for ladder in self._ladders:
            keys = [self._evaluator.key(recipe) for recipe in ladder.rungs]
            if trial.key in keys[1:]:
                self.attempt(ladder.rungs[keys.index(trial.key) - 1])


def _size(trial: Trial) -> int:
    return trial.variant.report.size_bytes if trial.variant is not None else 2**62


def write(trial: Trial, path: Path) -> None:
    """Write a trial's packed model to a sibling, sync it, and rename it."""
    packed.save(onnx.load(trial.path), path)
