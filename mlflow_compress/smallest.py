"""The smallest model that still does its job: one ONNX file in, one packed file out.

No configuration, server or labels. A *ladder* is a list of recipes from gentle to strong; the
strongest rung that passes the gate is found by bisection, and the smallest file of all ladders
wins. The gate is checked on rows that no technique has looked at.
"""

import hashlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx

from mlflow_compress import measure, packed, techniques
from mlflow_compress.errors import CompressError, ConfigError, DataError, TechniqueError
from mlflow_compress.records import Gate, InputSpec, Profile, Recipe, Report, Step, Trial
from mlflow_compress.search import TrialEvaluator

__all__ = ["EFFORTS", "Ladder", "Limits", "Smallest", "ladders", "smallest", "split_rows", "write"]

EFFORTS = range(1, 6)

_FOLD = Step("fold", {"names": True})

_ROUNDING = 1e-9
"""Ten rows of 5,000 are a drop of 0.002, though their difference in floating point is more."""

_ROWS = (2048, 8192, 16384, 32768, 65536)
"""At most so many calibration rows are looked at, by effort; more rows make better fits."""

_HELD_BACK = 0.25
"""Share of the calibration rows that gate the variants when there are no evaluation rows."""


@dataclass(frozen=True)
class Limits:
    """What a variant must keep; None is no limit.

    Attributes:
        max_drop: largest drop of the metric, in its own unit (accuracy: 0.01 is one point).
        min_agreement: least share of rows with the source's top-1 class, 0 to 1.
        max_kl: largest mean KL divergence from the source's outputs, nats.
    """

    max_drop: float | None = None
    min_agreement: float | None = None
    max_kl: float | None = None

    def gates(self, report: Report) -> tuple[Gate, ...]:
        """Check a report; what is missing fails."""
        accuracy, fidelity = report.accuracy, report.fidelity
        drop = None if accuracy is None else accuracy.drop
        agreement = None if fidelity is None else fidelity.agreement
        kl = None if fidelity is None else fidelity.kl
        found = []
        for name, value, limit, sign in (
            ("drop", drop, self.max_drop, 1),
            ("agreement", agreement, self.min_agreement, -1),
            ("kl", kl, self.max_kl, 1),
        ):
            if limit is not None:
                passed = value is not None and sign * value <= sign * limit + _ROUNDING
                found.append(Gate(name, passed, value, limit, _why(name, value, limit, passed)))
        return tuple(found)


def _why(name: str, value: float | None, limit: float, passed: bool) -> str:
    if value is None:
        return f"{name} could not be measured"
    relation = {(True, True): "at least", (True, False): "below"}.get(
        (name == "agreement", passed), "at most" if passed else "above"
    )
    return f"{name} {value:.4g} is {relation} {limit:g}"


@dataclass(frozen=True)
class Ladder:
    """Recipes from gentle to strong, each rung smaller and worse than the one before."""

    name: str
    rungs: tuple[Recipe, ...]


@dataclass(frozen=True)
class Smallest:
    """What the search came to.

    Attributes:
        best: the smallest trial that passes every gate; the lossless one when no other does.
        is_lossless: whether only lossless packing passed.
        trials: everything tried, in order.
        gates: the gates of each trial with a variant, by its key.
        rows: the rows that the gates were checked on.
    """

    best: Trial
    is_lossless: bool
    trials: tuple[Trial, ...]
    gates: dict[str, tuple[Gate, ...]] = field(repr=False)
    rows: measure.Dataset = field(repr=False)

    @property
    def nearest_miss(self) -> Trial | None:
        """The largest trial that is smaller than the best and fails a gate: why not smaller."""
        size = _size(self.best)
        missed = [
            t
            for t in self.trials
            if t.variant is not None
            and _size(t) < size
            and not all(gate.passed for gate in self.gates[t.key])
        ]
        return max(missed, key=_size, default=None)


def ladders(effort: int, profile: Profile, has_calibration: bool) -> tuple[Ladder, ...]:
    """Return what is tried: more ladders with more rungs the higher the effort, 1 to 5."""
    made = []
    for name, rungs in _plans(effort, has_calibration):
        recipes = [Recipe((_FOLD, *steps), profile) for steps in rungs]
        made.append(Ladder(name, tuple(techniques.validate_recipe(r) for r in recipes)))
    return tuple(made)


def _plans(effort: int, has_calibration: bool) -> Iterator[tuple[str, list[tuple[Step, ...]]]]:
    counts = (6, 14, 30, 60, 120)[effort - 1]  # bisection: twice as many cost one trial more
    clusters = (256, 128, 64, 32, 16, 8, 4)[: 5 if effort == 1 else 7]
    if not has_calibration:
        yield "share", [(Step("share", {"clusters": n}),) for n in clusters]
        for n in ((16,), (16, 32), (16, 32, 8), (16, 32, 8, 64), (16, 32, 8, 64, 4))[effort - 1]:
            share = Step("share", {"clusters": n})
            yield (
                f"prune + share {n}",
                [(Step("prune", {"sparsity": s}), share) for s in _spread(0.3, 0.9, counts)],
            )
        return
    looks = {"rows": _ROWS[effort - 1]}
    yield (
        "entropy_share",
        [(Step("entropy_share", {"bits": b, **looks}),) for b in _geometric(5.0, 0.15, counts)],
    )
    if effort == 1:
        return  # the strongest one alone: nothing else is as small as often
    yield "share", [(Step("share", {"clusters": n}),) for n in clusters]
    for s in ((), (0.85,), (0.75, 0.85), (0.65, 0.8, 0.9, 0.95), (0.5, 0.7, 0.8, 0.9, 0.95))[
        effort - 1
    ]:
        prune = Step("prune", {"sparsity": s, "repair": True, **looks})
        yield (
            f"prune {s:g} + entropy_share",
            [
                (prune, Step("entropy_share", {"bits": b, **looks}))
                for b in _geometric(_where(s) + 4 * (1 - s), 0.1, counts)
            ],
        )
    for ratio, s in ((), ((0.25, 0.75),), ((0.25, 0.75), (0.5, 0.6)),
                     ((0.15, 0.75), (0.3, 0.75), (0.5, 0.6)),
                     ((0.15, 0.75), (0.25, 0.75), (0.4, 0.7), (0.5, 0.6)))[effort - 1]:  # fmt: skip
        shrink = Step("shrink", {"ratio": ratio, **looks})
        prune = Step("prune", {"sparsity": s, "repair": True, **looks})
        yield (
            f"shrink {ratio:g} + prune {s:g} + entropy_share",
            [
                (shrink, prune, Step("entropy_share", {"bits": b, **looks}))
                for b in _geometric(_where(s) + 4 * (1 - s), 0.1, counts)
            ],
        )
    for n in ((), (), (16,), (8, 16, 32), (8, 16, 32, 64))[effort - 1]:
        share = Step("share", {"clusters": n})
        yield (
            f"prune + share {n}",
            [
                (Step("prune", {"sparsity": s, "repair": True, **looks}), share)
                for s in _spread(0.5, 0.97, counts)
            ],
        )


def _where(sparsity: float) -> float:
    """Return the bits per weight that it takes to say which are zero."""
    return -sum(p * math.log2(p) for p in (sparsity, 1 - sparsity))


def _spread(low: float, high: float, count: int) -> list[float]:
    return [round(low + (high - low) * i / (count - 1), 4) for i in range(count)]


def _geometric(high: float, low: float, count: int) -> list[float]:
    return [round(high * (low / high) ** (i / (count - 1)), 4) for i in range(count)]


def split_rows(calibration: measure.Dataset) -> tuple[measure.Dataset, measure.Dataset]:
    """Split calibration rows into those that techniques see and those that gate.

    Every fourth row is held back, see :func:`measure.held_back`.

    Raises:
        DataError: there are too few rows to hold any back.
    """
    if calibration.rows < 8:
        raise DataError(
            f"data {calibration.name!r}: {calibration.rows} rows are too few to hold some back for "
            "the gate: give at least 8, or --evaluation"
        )
    held = measure.held_back(calibration, round(1 / _HELD_BACK))
    seen = np.setdiff1d(np.arange(calibration.rows), held)
    return calibration.take(seen), calibration.take(held, name=f"{calibration.name}, held back")


def smallest(
    model: onnx.ModelProto,
    *,
    limits: Limits,
    work_dir: Path,
    calibration: measure.Dataset | None = None,
    evaluation: measure.Dataset | None = None,
    metric: str = "accuracy",
    profile: Profile = "portable",
    effort: int = 3,
    plan: Sequence[Ladder] | None = None,
    seed: int = 0,
    on_trial: Callable[[Trial, tuple[Gate, ...]], None] | None = None,
    specs: Mapping[str, InputSpec] | None = None,
    stream: int | None = None,
) -> Smallest:
    """Search for the smallest packed model that keeps within ``limits``.

    Args:
        model: the source.
        limits: what must be kept.
        work_dir: an existing folder for the packed files of all trials.
        calibration: inputs that techniques may look at. Without ``evaluation`` every fourth row
            is held back for the gate.
        evaluation: rows for the gate, with labels when ``limits.max_drop`` is set.
        metric: the accuracy metric's name, or ``module:function``.
        profile: ``portable`` or ``compact``.
        effort: 1 (seconds) to 5.
        plan: what to try, in place of the ladders of ``effort``.
        seed: seeds everything random.
        on_trial: called with each trial and its gates.
        specs: what is said of the model's inputs.
        stream: a state begins anew every so many rows.

    Raises:
        ConfigError: a limit needs labels that are not there.
        DataError: the rows do not fit the model.
        SourceError: onnxruntime does not run the model.
    """
    normal = techniques.normalize(model)
    if evaluation is None:
        if calibration is None:
            raise ConfigError("rows are needed to check the result: give --calibration")
        calibration = measure.check_fits(calibration, normal, specs, stream)
        calibration, evaluation = split_rows(calibration)
    if limits.max_drop is not None and evaluation.labels is None:
        raise ConfigError(
            f"--max-drop needs labels, and data {evaluation.name!r} has none: add an array "
            "'labels', or use --min-agreement"
        )
    fitted = measure.fit_rows(normal, evaluation, calibration, specs=specs, stream=stream)
    evaluator = TrialEvaluator(
        source=normal,
        uri="",
        source_digest=hashlib.sha256(normal.SerializeToString(deterministic=True)).hexdigest(),
        source_bytes=measure.weight_bytes(model),
        evaluation=fitted.evaluation,
        calibration=fitted.calibration,
        work_dir=work_dir,
        metric=metric,
        latency_rounds=0,
        seed=seed,
    )
    evaluator.check_source()
    search = _Search(evaluator, limits, on_trial)
    lossless = [search.attempt(Recipe((), profile)), search.attempt(_folded(profile))]
    for ladder in plan or ladders(effort, profile, calibration is not None):
        search.climb(ladder)
    passing = [t for t in search.trials if search.passes(t)]
    best = min(passing or [t for t in lossless if t.variant is not None], key=_size, default=None)
    if best is None:
        raise TechniqueError(f"lossless packing failed: {lossless[0].error}")
    is_lossless = best in lossless
    return Smallest(best, is_lossless, tuple(search.trials), search.gates, evaluator.evaluation)


def _folded(profile: Profile) -> Recipe:
    return techniques.validate_recipe(Recipe((_FOLD,), profile))


class _Search:
    """Tries recipes, each once."""

    def __init__(
        self,
        evaluator: TrialEvaluator,
        limits: Limits,
        on_trial: Callable[[Trial, tuple[Gate, ...]], None] | None,
    ) -> None:
        self.trials: list[Trial] = []
        self.gates: dict[str, tuple[Gate, ...]] = {}
        self._evaluator, self._limits, self._on_trial = evaluator, limits, on_trial
        self._known: dict[str, Trial] = {}

    def attempt(self, recipe: Recipe) -> Trial:
        """Apply and measure a recipe; a technique that refuses makes a failed trial."""
        key = self._evaluator.key(recipe)
        if key in self._known:
            return self._known[key]
        number = len(self.trials)
        try:
            variant, path = self._evaluator.evaluate(recipe, key)[:2]
        except CompressError as error:
            text = " ".join(str(error).split())
            trial = Trial(number, key, recipe, "failed", error=text)
        else:
            trial = Trial(number, key, recipe, "complete", variant=variant, path=path)
            self.gates[key] = self._limits.gates(variant.report)
        self._known[key] = trial
        self.trials.append(trial)
        if self._on_trial is not None:
            self._on_trial(trial, self.gates.get(key, ()))
        return trial

    def passes(self, trial: Trial) -> bool:
        """Whether a trial has a variant and every gate passed."""
        return trial.variant is not None and all(gate.passed for gate in self.gates[trial.key])

    def climb(self, ladder: Ladder) -> None:
        """Find the strongest rung that passes, by bisection.

        Quality falls from rung to rung but for noise, so that the rung after the first that
        failed is tried as well.
        """
        low, high = -1, len(ladder.rungs)
        while high - low > 1:
            middle = (low + high) // 2
            passed = self.passes(self.attempt(ladder.rungs[middle]))
            low, high = (middle, high) if passed else (low, middle)
        if high < len(ladder.rungs) - 1:
            self.attempt(ladder.rungs[high + 1])


def _size(trial: Trial) -> int:
    return trial.variant.report.size_bytes if trial.variant is not None else 2**62


def write(trial: Trial, path: Path) -> None:
    """Write a trial's packed model to a sibling, sync it, and rename it."""
    packed.save(onnx.load(trial.path), path)
