"""Evaluators for workers; in a module of their own, because workers import them."""

import os
import signal
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from mlflow_compress.search import TrialEvaluator
from tests.search.made_up import MadeUp


@dataclass(frozen=True)
class Deadly(TrialEvaluator):
    """Kills its process when it meets a recipe, so often."""

    victim: str = ""
    times: int = 1
    marks: Path = field(default_factory=Path)

    def make(self, recipe, key, screen=None, watch=None):
        deaths = len(list(self.marks.glob("*")))
        if recipe.label == self.victim and deaths < self.times:
            (self.marks / str(deaths)).touch()
            time.sleep(0.2)  # others are on their way by now
            os.kill(os.getpid(), signal.SIGKILL)
        return super().make(recipe, key, screen, watch)


@dataclass(frozen=True)
class Untimed(TrialEvaluator):
    """Cannot measure the latency of what was pruned; notes when it measures any."""

    marks: Path = field(default_factory=Path)

    def make(self, recipe, key, screen=None, watch=None):
        with self._mark("make"):
            return super().make(recipe, key, screen, watch)

    def timed(self, variant, path):
        if "prune" in variant.recipe.label:
            raise MemoryError("no room")
        with self._mark("time"):
            time.sleep(0.05)
            return super().timed(variant, path)

    @contextmanager
    def _mark(self, what):
        began = time.time()
        yield
        (self.marks / f"{what} {began} {time.time()}").touch()


class Quick(MadeUp):
    """Made-up numbers, for workers; slower for some recipes than for others."""

    def __init__(self, work_dir, pause=0.02):
        super().__init__()
        self.work_dir, self.pause = work_dir, pause

    def evaluate(self, recipe, key):
        time.sleep(self.pause * (int(key[:4], 16) % 3))
        variant, _ = super().evaluate(recipe, key)
        path = Path(self.work_dir) / f"{key[:12]}-{os.getpid()}"
        path.touch()
        return variant, str(path)
