"""The study: one ask/tell loop that serves every strategy, with each recipe tried once."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from mlflow_compress.base.clearing import clearing_up
from mlflow_compress.records import Trial, Variant
from mlflow_compress.search.budget import Budget, Watch
from mlflow_compress.search.evaluator import Evaluator
from mlflow_compress.search.executors import Executor, Inline, Options
from mlflow_compress.search.front import Objective
from mlflow_compress.search.observer import WINDOW, Observer, SearchInfo
from mlflow_compress.search.proposals import Proposals
from mlflow_compress.search.recording import Recording
from mlflow_compress.search.running import Pending, Running
from mlflow_compress.search.space import Point, Space
from mlflow_compress.search.strategies import Strategy, as_strategy
from mlflow_compress.techniques.data import Epoch

__all__ = ["SearchOptions", "run_search"]


@dataclass(frozen=True)
class SearchOptions:
    """How a search goes.

    Attributes:
        objectives: names in :data:`~mlflow_compress.search.front.OBJECTIVES`, or rewards.
        trials: the most recipes to try; in place of ``budget``.
        budget: when to end.
        seed: seed of the sampler; the same seed gives the same recipes in the same order.
        violations: by how much a variant breaks the limits that matter; strategies that learn
            look for variants that break none.
        on_trial: called with each trial when it is finished.
        on_epoch: called with each epoch of a training in this process.
        executor: where trials run; in this process by default. It is closed at the end.
        window: how many trials are on their way at most: so many outcomes a strategy does without
            when it is asked for the next recipe, whatever the number of workers.
        in_order: tell the strategy what came of trials in the order in which they were asked for,
            so that the search can be repeated; else as they come.
        initial: points to try first; a strategy that has a list of points of its own does not.
    """

    objectives: Sequence[Objective]
    trials: int | None = None
    budget: Budget | None = None
    seed: int = 0
    violations: Callable[[Variant], Mapping[str, float]] = lambda variant: {}
    on_trial: Callable[[Trial], None] | None = None
    on_epoch: Callable[[Epoch], None] | None = None
    executor: Executor | None = None
    window: int = WINDOW
    in_order: bool = True
    initial: Sequence[Point] = ()


def run_search(
    space: Space,
    strategy: Strategy,
    evaluator: Evaluator,
    observer: Observer,
    info: SearchInfo,
    options: SearchOptions,
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
        options: how it goes.
    """
    record = Recording(observer, info)
    strategy, objectives = as_strategy(strategy), options.objectives
    watch = (options.budget or Budget(options.trials)).start(objectives)
    proposals = Proposals(
        space, strategy, objectives, options.seed, options.violations, options.initial
    )
    executor = options.executor or Inline(Options())
    window = min(options.window, strategy.window)
    running = Running(evaluator, executor, record, window, options.in_order, options.on_epoch)
    done: list[Pending] = []

    def outcomes() -> list[Trial]:
        return [trial for one in done if (trial := one.trial) is not None] + running.finished()

    try:
        while _ask(proposals, running, watch) or running.waiting:
            for pending in running.take():
                assert pending.trial is not None
                proposals.tell(pending.proposal, pending.trial)
                evaluator.learn(pending.trial)
                watch.add(pending.trial)
                done.append(pending)
                if options.on_trial is not None:
                    options.on_trial(pending.trial)
        trials_done = [_recorded(pending) for pending in sorted(done, key=lambda p: p.number)]
    except KeyboardInterrupt:
        running.close()
        with clearing_up():
            record.close(outcomes(), "KILLED")
        raise
    except BaseException:
        running.close()
        with clearing_up():
            record.close(outcomes(), "FAILED")
        raise
    running.close()
    record.close(trials_done, "FINISHED")
    return tuple(trials_done)


def _ask(proposals: Proposals, running: Running, watch: Watch) -> bool:
    """Begin as many trials as there is room for; return whether any began."""
    before = running.asked
    while running.has_room() and not watch.ended(len(running.waiting)):
        proposal = proposals.next()
        if proposal is None:
            break
        running.start(proposal)
    return running.asked > before


def _recorded(pending: Pending) -> Trial:
    """Return a trial with its run and its model."""
    if pending.recorded is not None:
        return pending.recorded.result()
    assert pending.trial is not None
    return pending.trial
