"""Tells an observer in a thread of its own, so that keeping the record delays no trial."""

from collections import deque
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from mlflow_compress.base.clearing import clearing_up
from mlflow_compress.records import Recipe, Trial
from mlflow_compress.search.observer import Observer, SearchInfo
from mlflow_compress.techniques.data import Epoch

__all__ = ["Recording"]

_BEHIND = 32
"""So many calls may wait; then the search waits for the record, so that a kill loses little."""


class Recording:
    """An observer's calls in order, each made while the search goes on.

    The record is opened by the first trial that is really run. What the observer raises is raised
    by the next call, and ends the search.

    Args:
        observer: keeps the record.
        info: what the search is about.
    """

    def __init__(self, observer: Observer, info: SearchInfo) -> None:
        self.info = info
        self._observer = observer
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="compress-record")
        self._waiting: deque[Future[Any]] = deque()
        self._is_open = False

    def earlier(self, keys: Sequence[str]) -> Mapping[str, Trial]:
        """Return what earlier searches finished among these keys."""
        return self._observer.finished_trials(keys)

    def started(self, number: int, recipe: Recipe, key: str) -> None:
        """Say that a trial begins."""
        if not self._is_open:
            self._is_open = True
            self._do(self._observer.search_started, self.info)
        self._do(self._observer.trial_started, number, recipe, key)

    def trained(self, number: int, epochs: Sequence[Epoch]) -> None:
        """Hand on epochs that a trial was trained for."""
        if epochs:
            self._do(self._observer.trial_trained, number, tuple(epochs))

    def finished(self, trial: Trial) -> "Future[Trial]":
        """Record a trial; the future has it with its run and model."""
        return self._do(self._observer.trial_finished, trial)

    def check(self) -> None:
        """Raise what the observer raised, and wait if it is far behind."""
        while self._waiting and (self._waiting[0].done() or len(self._waiting) > _BEHIND):
            self._waiting.popleft().result()

    def close(self, trials: Sequence[Trial], status: str) -> None:
        """End the record after all that waits; safe to call twice."""
        try:
            while self._waiting:
                self._waiting.popleft().result()
        except BaseException as error:
            for future in self._waiting:
                future.cancel()  # each would wait for the server again
            broken = "KILLED" if isinstance(error, KeyboardInterrupt) else "FAILED"
            with clearing_up():
                self._end(trials, broken if status == "FINISHED" else status)
            raise
        self._end(trials, status)

    def _end(self, trials: Sequence[Trial], status: str) -> None:
        try:
            if self._is_open:
                self._is_open = False
                self._waiting.clear()
                self._thread.submit(self._observer.search_finished, trials, status).result()
        finally:
            self._thread.shutdown()

    def _do(self, call: Any, *args: Any) -> "Future[Any]":
        self.check()
        future = self._thread.submit(call, *args)
        self._waiting.append(future)
        return future
