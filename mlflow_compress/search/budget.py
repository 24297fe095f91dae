"""When a search ends: after so many trials, so long a time, or when the front has settled."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from mlflow_compress.records import Trial, Variant
from mlflow_compress.search.front import Objective
from mlflow_compress.search.goals import volume

__all__ = ["Budget", "Watch"]

_SETTLED = 0.01
"""Relative growth of the front's volume over the window that still counts as improving."""


@dataclass(frozen=True)
class Budget:
    """What a search may spend; whichever is used up first ends it, and None bounds nothing.

    Attributes:
        trials: the most recipes to try.
        seconds: no trial begins after so long; one that runs is finished.
        patience: end when so many trials in a row have made the front no better, that is, its
            hypervolume less than 1 % larger. Waits until the front has any.
    """

    trials: int | None = None
    seconds: float | None = None
    patience: int | None = None

    def start(
        self, objectives: Sequence[Objective], clock: Callable[[], float] = time.monotonic
    ) -> "Watch":
        """Begin to spend it."""
        return Watch(self, objectives, clock)


class Watch:
    """Follows a search and says when it ends."""

    def __init__(
        self, budget: Budget, objectives: Sequence[Objective], clock: Callable[[], float]
    ) -> None:
        self._budget, self._objectives, self._clock = budget, objectives, clock
        self._began = clock()
        self._variants: list[Variant] = []
        self._volumes: list[float] = []

    def add(self, trial: Trial) -> None:
        """Count one more trial."""
        if self._budget.patience is None:
            self._volumes.append(0.0)
            return
        if trial.variant is not None:
            self._variants.append(trial.variant)
        self._volumes.append(volume(self._variants, self._objectives))

    def ended(self, running: int = 0) -> str:
        """Return why no trial begins any more, empty when one may.

        Args:
            running: how many have begun and are not done.
        """
        budget, done = self._budget, len(self._volumes)
        if budget.trials is not None and done + running >= budget.trials:
            return f"{budget.trials} trials are done"
        if budget.seconds is not None and self._clock() - self._began >= budget.seconds:
            return f"{budget.seconds:g} seconds have passed"
        if budget.patience is not None and done > budget.patience:
            before, now = self._volumes[-1 - budget.patience], self._volumes[-1]
            if before > 0 and now < before * (1 + _SETTLED):
                return f"the front has not become better for {budget.patience} trials"
        return ""
