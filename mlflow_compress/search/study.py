"""The study: one ask/tell loop that serves every strategy, with each recipe tried once."""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Protocol

from mlflow_compress.errors import TechniqueError
from mlflow_compress.records import Recipe, Trial, Variant
from mlflow_compress.search.budget import Budget
from mlflow_compress.search.observer import Observer, SearchInfo
from mlflow_compress.search.proposals import Proposals
from mlflow_compress.search.screen import DroppedError
from mlflow_compress.search.space import Space
from mlflow_compress.search.strategies import Strategy
from mlflow_compress.search.trial import Made

__all__ = ["Evaluator", "run_search"]

_log = logging.getLogger(__name__)


class Evaluator(Protocol):
    """Applies one recipe and measures the variant.

    One that has a method ``learn(trial)`` hears of every finished trial, in order.
    """

    def key(self, recipe: Recipe) -> str:
        """Return the trial's key: digest of source, recipe, data, evaluator, versions."""

    def evaluate(self, recipe: Recipe, key: str) -> Made | tuple[Variant, str]:
        """Return the variant and the path of its packed file, and perhaps more.

        Raises:
            TechniqueError: the recipe cannot be applied to this model.
            DroppedError: no target can take what it makes, so that it was not measured to the end.
        """


def run_search(
    space: Space,
    strategy: Strategy,
    evaluator: Evaluator,
    observer: Observer,
    info: SearchInfo,
    *,
    objectives: Sequence[str],
    trials: int | None = None,
    budget: Budget | None = None,
    seed: int = 0,
    violations: Callable[[Variant], Mapping[str, float]] = lambda variant: {},
    on_trial: Callable[[Trial], None] | None = None,
) -> tuple[Trial, ...]:
    """Try different recipes until the budget or the space is used up; return trials in order.

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
        objectives: names in :data:`~mlflow_compress.search.front.OBJECTIVES`.
        trials: the most recipes to try; in place of ``budget``.
        budget: when to end.
        seed: seed of the sampler; the same seed gives the same recipes in the same order.
        violations: by how much a variant breaks the limits that matter; strategies that learn
            look for variants that break none.
        on_trial: called with each trial when it is finished.
    """
    done: list[Trial] = []
    record = _Record(observer, info)
    watch = (budget or Budget(trials)).start(objectives)
    learn = getattr(evaluator, "learn", lambda trial: None)
    proposals = Proposals(space, strategy, objectives, seed, violations)
    try:
        while not watch.ended():
            proposal = proposals.next()
            if proposal is None:
                break
            trial = _one(len(done), proposal.recipe, evaluator, record)
            proposals.tell(proposal, trial)
            learn(trial)
            watch.add(trial)
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
        return replace(
            earlier, number=number, state="reused", variant=variant, steps=0, reused_steps=0
        )
    observer = record.open()
    observer.trial_started(number, recipe, key)
    started = time.monotonic()
    try:
        made = Made(*evaluator.evaluate(recipe, key))
    except DroppedError as error:
        trial = Trial(number, key, recipe, "dropped", error=str(error), partial=error.report)
    except TechniqueError as error:
        trial = Trial(number, key, recipe, "failed", error=" ".join(str(error).split()))
    except Exception as error:  # noqa: BLE001 - one recipe's accident must not end the search
        _log.debug("trial %d (%s) failed", number, recipe.label, exc_info=True)
        text = f"{type(error).__name__}: {' '.join(str(error).split())}"
        trial = Trial(number, key, recipe, "failed", error=text)
    else:
        trial = Trial(number, key, recipe, "complete", variant=made.variant, path=made.path)
        trial = replace(trial, steps=made.steps, reused_steps=made.reused_steps)
    return observer.trial_finished(replace(trial, seconds=time.monotonic() - started))
