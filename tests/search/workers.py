"""Evaluators for workers; in a module of their own, because workers import them."""

import os
import signal
import time
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


class Quick(MadeUp):
    """Made-up numbers, for workers; slower for some recipes than for others."""

    def __init__(self, work_dir):
        super().__init__()
        self.work_dir = work_dir

    def evaluate(self, recipe, key):
        time.sleep(0.02 * (int(key[:4], 16) % 3))
        variant, _ = super().evaluate(recipe, key)
        path = Path(self.work_dir) / f"{key[:12]}-{os.getpid()}"
        path.touch()
        return variant, str(path)
