"""The study: one ask/tell loop that serves every strategy, with each recipe tried once."""

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Protocol

from mlflow_compress.errors import TechniqueError
from mlflow_compress.records import Recipe, Trial, Variant
from mlflow_compress.search.front import objective_values
from mlflow_compress.search.observer import Observer, SearchInfo
from mlflow_compress.search.space import ALTERNATIVE, Choice, Point, Space
from mlflow_compress.search.strategies import Strategy

if TYPE_CHECKING:
    import optuna

__all__ = ["Evaluator", "run_search"]

_log = logging.getLogger(__name__)

_MAX_REPEATS = 200
"""Draws in a row that bring nothing new before a search over a finite space ends."""


class Evaluator(Protocol):
    """Applies one recipe and measures the variant."""

    def key(self, recipe: Recipe) -> str:
        """Return the trial's key: digest of source, recipe, data, evaluator, versions."""

    def evaluate(self, recipe: Recipe, key: str) -> tuple[Variant, str]:
        """Return the variant and the path of its packed file.

        Raises:
            TechniqueError: the recipe cannot be applied to this model.
        """


def run_search(
    space: Space,
    strategy: Strategy,
    evaluator: Evaluator,
    observer: Observer,
    info: SearchInfo,
    *,
    trials: int,
    objectives: Sequence[str],
    seed: int = 0,
    on_trial: Callable[[Trial], None] | None = None,
) -> tuple[Trial, ...]:
    """Try up to ``trials`` different recipes and return their trials in order.

    A recipe is never tried twice in a search; one that an earlier search finished (same key) is
    reused, and a search in which every recipe is reused leaves no new record. A trial that fails
    is recorded with its error and the search goes on. Whatever ends the search early (an error,
    Ctrl-C), the observer is told, so that no record stays open.

    Args:
        space: what recipes there are.
        strategy: chooses among them.
        evaluator: tries one.
        observer: keeps the record.
        info: what the search is about, for the record.
        trials: the most recipes to try.
        objectives: names in :data:`~mlflow_compress.search.front.OBJECTIVES`.
        seed: seed of the sampler; the same seed gives the same recipes in the same order.
        on_trial: called with each trial when it is finished.
    """
    done: list[Trial] = []
    record = _Record(observer, info)
    try:
        for recipe, tell in _recipes(space, strategy, objectives, seed, trials):
            trial = _one(len(done), recipe, evaluator, record)
            tell(trial)
            done.append(trial)
            if on_trial is not None:
                on_trial(trial)
    except KeyboardInterrupt:
        record.close(done, "KILLED")
        raise
    except BaseException:
        record.close(done, "FAILED")
        raise
    record.close(done, "FINISHED")
    return tuple(done)


class _Record:
    """Opens the observer's record at the first trial that is really run."""

    def __init__(self, observer: Observer, info: SearchInfo) -> None:
        self.observer = observer
        self.info = info
        self._is_open = False

    def open(self) -> Observer:
        if not self._is_open:
            self._is_open = True
            self.observer.search_started(self.info)
        return self.observer

    def close(self, trials: Sequence[Trial], status: str) -> None:
        if self._is_open:
            self.observer.search_finished(trials, status)


def _one(number: int, recipe: Recipe, evaluator: Evaluator, record: _Record) -> Trial:
    key = evaluator.key(recipe)
    earlier = record.observer.finished_trials([key]).get(key)
    if earlier is not None and earlier.variant is not None:
        # The key names the source by its content; it may have become a newer version since.
        variant = replace(earlier.variant, source=record.info.source)
        return replace(earlier, number=number, state="reused", variant=variant)
    observer = record.open()
    observer.trial_started(number, recipe, key)
    started = time.monotonic()
    try:
        variant, path = evaluator.evaluate(recipe, key)
    except TechniqueError as error:
        trial = Trial(number, key, recipe, "failed", error=" ".join(str(error).split()))
    except Exception as error:  # noqa: BLE001 - one recipe's accident must not end the search
        _log.debug("trial %d (%s) failed", number, recipe.label, exc_info=True)
        text = f"{type(error).__name__}: {' '.join(str(error).split())}"
        trial = Trial(number, key, recipe, "failed", error=text)
    else:
        trial = Trial(number, key, recipe, "complete", variant=variant, path=path)
    return observer.trial_finished(replace(trial, seconds=time.monotonic() - started))


def _recipes(
    space: Space, strategy: Strategy, objectives: Sequence[str], seed: int, trials: int
) -> Iterator[tuple[Recipe, Callable[[Trial], None]]]:
    """Yield new recipes, each with the function that tells the study its outcome."""
    study = _new_study(strategy, objectives, seed)
    points = strategy.points(space)
    listed = None if points is None else iter(points)
    outcomes: dict[str, Sequence[float] | None] = {}
    repeats = 0
    while len(outcomes) < trials and repeats < _MAX_REPEATS and len(outcomes) < space.size:
        if listed is not None:
            point = next(listed, None)
            if point is None:
                return
            study.enqueue_trial(point)
        asked = study.ask()
        recipe = space.recipe(_suggest(asked, space))
        digest = recipe.digest
        if digest in outcomes:
            repeats += 1
            _tell(study, asked, outcomes[digest])
            continue
        repeats = 0

        def tell(trial: Trial, asked: Any = asked, digest: str = digest) -> None:
            done = trial.variant
            values = None if done is None else objective_values(done, objectives)
            outcomes[digest] = values
            _tell(study, asked, values)

        yield recipe, tell


def _new_study(strategy: Strategy, objectives: Sequence[str], seed: int) -> "optuna.Study":
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    directions = ["maximize"] * len(objectives)
    return optuna.create_study(sampler=strategy.sampler(seed), directions=directions)


def _suggest(asked: "optuna.Trial", space: Space) -> Point:
    """Draw one point: the alternative first, then the open settings of that alternative."""
    index = asked.suggest_int(ALTERNATIVE, 0, len(space.alternatives) - 1)
    point: Point = {ALTERNATIVE: index}
    for name, dimension in space.dimensions_of(index).items():
        if isinstance(dimension, Choice):
            point[name] = asked.suggest_categorical(name, dimension.values)
        elif dimension.integer:
            low, high, step = int(dimension.low), int(dimension.high), int(dimension.step or 1)
            point[name] = asked.suggest_int(name, low, high, step=step, log=dimension.log)
        else:
            point[name] = round(
                asked.suggest_float(
                    name, dimension.low, dimension.high, step=dimension.step, log=dimension.log
                ),
                12,
            )
    return point


def _tell(study: "optuna.Study", asked: "optuna.Trial", values: Sequence[float] | None) -> None:
    import optuna

    if values is None or any(value != value for value in values):
        study.tell(asked, state=optuna.trial.TrialState.FAIL)
    else:
        study.tell(asked, list(values))
