"""Trials on their way: submitted, repeated when a worker dies, timed alone, told in order.

Which recipe comes next depends on how many outcomes are known. So many trials are on their way at
most, whatever the number of workers, and they are told in the order in which they were asked for:
the same seed gives the same search on one worker and on four.
"""

import hashlib
import pickle
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from mlflow_compress.errors import CompressError, TechniqueError, UnreachableError
from mlflow_compress.records import Trial, Variant
from mlflow_compress.search.evaluator import Evaluator
from mlflow_compress.search.executors import Executor, worker_died
from mlflow_compress.search.proposals import Proposal
from mlflow_compress.search.recording import Recording
from mlflow_compress.search.worker import (
    Outcome,
    pack_evaluator,
    run_shared,
    run_timed,
    run_trial,
    time_shared,
)
from mlflow_compress.techniques.data import Epoch

__all__ = ["Pending", "Running"]


@dataclass
class Pending:
    """A trial that was asked for and not told yet.

    Attributes:
        number: its number.
        proposal: what was asked for.
        key: the trial's key.
        future: its outcome.
        trial: what came of it, once it is known.
        recorded: the same with its run and model, once it is recorded.
    """

    number: int
    proposal: Proposal
    key: str
    future: "Future[Outcome] | None" = None
    trial: Trial | None = None
    recorded: "Future[Trial] | None" = field(default=None, repr=False)


class Running:
    """Runs trials by an executor.

    Args:
        evaluator: tries recipes.
        executor: where; opened by :meth:`start` when the first trial is really run.
        record: is told of every trial.
        window: how many trials may be on their way.
        in_order: whether outcomes are taken in the order of asking, or as they come.
        on_epoch: hears of epochs while they are trained, where trials run in this process.
    """

    def __init__(
        self,
        evaluator: Evaluator,
        executor: Executor,
        record: Recording,
        window: int,
        in_order: bool = True,
        on_epoch: Callable[[Epoch], None] | None = None,
    ) -> None:
        self.waiting: list[Pending] = []
        self.asked = 0
        self._evaluator, self._executor, self._record = evaluator, executor, record
        self._window, self._in_order, self._on_epoch = window, in_order, on_epoch
        self._times = evaluator.latency_rounds > 0
        self._shared: Any = None
        self._digest = ""
        self._is_open = False

    def has_room(self) -> bool:
        """Whether another trial may be asked for now."""
        if self._times:  # in batches: latency is measured when nothing runs
            return self.asked % self._window > 0 or not self.waiting
        return len(self.waiting) < self._window

    def start(self, proposal: Proposal) -> None:
        """Begin a trial, or take it from an earlier search."""
        key = self._evaluator.key(proposal.recipe)
        pending = Pending(self.asked, proposal, key)
        self.asked += 1
        self.waiting.append(pending)
        earlier = self._record.earlier([key]).get(key)
        if earlier is not None and earlier.variant is not None:
            # The key names the source by its content; it may have become a newer version since.
            variant = replace(earlier.variant, source=self._record.info.source)
            pending.trial = replace(
                earlier,
                number=pending.number,
                state="reused",
                variant=variant,
                steps=0,
                reused_steps=0,
            )
            return
        if not self._is_open:
            self._open()
        self._record.started(pending.number, proposal.recipe, key)
        if self._executor.is_local:
            self._run_here(pending)
        else:
            pending.future = self._submit(pending)

    def take(self) -> list[Pending]:
        """Wait for the trials that are to be told next, and take them out, in order."""
        self._record.check()
        if self._times:
            chosen = list(self.waiting)
        else:
            chosen = self.waiting[:1] if self._in_order else [self._first_done()]
        for pending in chosen:
            if pending.trial is None:
                self._settle(pending, self._outcome(pending))
        for pending in chosen:
            self._finish(pending)
            self.waiting.remove(pending)
        return chosen

    def finished(self) -> list[Trial]:
        """Return the trials on their way whose outcome is known already."""
        return [p.trial for p in self.waiting if p.trial is not None]

    def close(self) -> None:
        """End what still runs."""
        self._executor.close()

    def _open(self) -> None:
        self._is_open = True
        self._executor.open()
        if self._executor.is_local:
            return
        path = Path(self._evaluator.work_dir) / "evaluator.bin"
        path.write_bytes(pack_evaluator(self._evaluator))
        with path.open("rb") as file:
            self._digest = hashlib.file_digest(file, "sha256").hexdigest()
        self._shared = self._executor.share(path)

    def _run_here(self, pending: Pending) -> None:
        screen = self._evaluator.screen

        def watch(epoch: Epoch) -> None:
            self._record.trained(pending.number, [epoch])
            if self._on_epoch is not None:
                self._on_epoch(epoch)

        outcome = run_trial(self._evaluator, pending.proposal.recipe, pending.key, screen, watch)
        self._settle(pending, outcome)
        self._finish(pending)

    def _submit(self, pending: Pending) -> "Future[Outcome]":
        # as it is now: what the screen learns while the trial waits must not matter
        screen = pickle.dumps(self._evaluator.screen)
        return self._executor.submit(
            run_shared, self._shared, self._digest, pending.proposal.recipe, pending.key, screen
        )

    def _first_done(self) -> Pending:
        known = [p for p in self.waiting if p.trial is not None]
        if known:
            return known[0]
        futures = {p.future: p for p in self.waiting if p.future is not None}
        done, _ = wait(futures, return_when=FIRST_COMPLETED)
        return min((futures[future] for future in done), key=lambda p: p.number)

    def _outcome(self, pending: Pending) -> Outcome:
        """Wait for an outcome; a trial whose worker died is run once more."""
        assert pending.future is not None
        try:
            made: Outcome = self._twice(pending.future, lambda: self._submit(pending))
        except TechniqueError as error:
            return Outcome("failed", 0.0, error=str(error))
        return made

    def _twice(self, future: "Future[Any]", again: "Callable[[], Future[Any]]") -> Any:
        """Return a future's result, of a second try when the worker died.

        Raises:
            TechniqueError: the worker died twice.
            UnreachableError: the workers are out of reach.
        """
        for last in (False, True):
            try:
                return future.result()
            except CompressError:
                raise
            except Exception as error:
                if not worker_died(error):
                    text = " ".join(str(error).split()) or type(error).__name__
                    name = self._executor.name
                    raise UnreachableError(f"executor {name}: no answer: {text}") from error
                self._executor.repair()
                if last:
                    kind = type(error).__name__
                    raise TechniqueError(f"its worker died twice ({kind})") from error
            future = again()
        raise AssertionError("unreachable: the second try returns or raises")

    def _settle(self, pending: Pending, outcome: Outcome) -> None:
        """Turn an outcome into a trial."""
        path = outcome.path
        if outcome.data is not None:
            path = str(Path(self._evaluator.work_dir) / f"{pending.key[:16]}.onnx")
            Path(path).write_bytes(outcome.data)
        self._record.trained(pending.number, outcome.epochs)
        pending.trial = Trial(
            pending.number,
            pending.key,
            pending.proposal.recipe,
            outcome.state,
            variant=outcome.variant,
            path=path,
            error=outcome.error,
            seconds=outcome.seconds,
            partial=outcome.partial,
            steps=outcome.steps,
            reused_steps=outcome.reused_steps,
        )

    def _finish(self, pending: Pending) -> None:
        """Measure latency while nothing else runs, and record the trial; does so once."""
        trial = pending.trial
        assert trial is not None
        if trial.state == "reused" or pending.recorded is not None:
            return
        if self._times and trial.variant is not None:
            trial = pending.trial = self._timed(trial, trial.variant)
        pending.recorded = self._record.finished(trial)

    def _timed(self, trial: Trial, variant: Variant) -> Trial:
        """Return a trial with its latency, or a failed one when it cannot be measured."""
        try:
            if self._executor.times_here:
                found, error = run_timed(self._evaluator, variant, Path(trial.path))
            else:
                data = Path(trial.path).read_bytes()

                def submit() -> "Future[Any]":
                    given = (self._shared, self._digest, variant, data)
                    return self._executor.submit(time_shared, *given, device=True)

                found, error = self._twice(submit(), submit)
        except TechniqueError as died:
            found, error = None, str(died)
        if found is None:
            return replace(trial, state="failed", variant=None, path="", error=error)
        return replace(trial, variant=found)
