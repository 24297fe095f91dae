"""What a search needs of whoever tries recipes."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, Self

from mlflow_compress.records import Recipe, Trial, Variant
from mlflow_compress.search.screen import Screen
from mlflow_compress.techniques.data import Epoch

__all__ = ["Evaluator", "Made", "Watch"]

Watch = Callable[[Epoch], None]


class Made(NamedTuple):
    """What a trial made.

    Attributes:
        variant: the variant with its numbers.
        path: its packed file.
        steps: how many steps the recipe has.
        reused_steps: how many of them were there already.
    """

    variant: Variant
    path: str
    steps: int = 0
    reused_steps: int = 0


class Evaluator(ABC):
    """Applies recipes and measures the variants. To be used on workers it must be picklable.

    Attributes:
        screen: tells what need not be measured to the end; None measures everything.
        latency_rounds: rounds of the latency, which :meth:`timed` measures apart; 0 for none.
        work_dir: where it may write.
    """

    screen: Screen | None = None
    latency_rounds: int = 0
    work_dir: Path

    @abstractmethod
    def key(self, recipe: Recipe) -> str:
        """Return the trial's key: digest of source, recipe, data, evaluator, versions."""

    @abstractmethod
    def evaluate(self, recipe: Recipe, key: str) -> Made | tuple[Variant, str]:
        """Return the variant and the path of its packed file, and perhaps more.

        Raises:
            TechniqueError: the recipe cannot be applied to this model.
            DroppedError: no target can take what it makes, so that it was not measured to the end.
        """

    def make(
        self,
        recipe: Recipe,
        key: str,
        screen: Screen | None = None,
        watch: Watch | None = None,
    ) -> Made:
        """Return what :meth:`evaluate` does, its latency left out where :meth:`timed` measures it.

        Args:
            recipe: the recipe.
            key: its key.
            screen: as it was when the trial was asked for.
            watch: hears of the epochs that are trained.
        """
        return Made(*self.evaluate(recipe, key))

    def timed(self, variant: Variant, path: Path) -> Variant:
        """Return the variant with its latency, which is measured when nothing else runs."""
        return variant

    def learn(self, trial: Trial) -> None:  # noqa: B027 - most learn nothing
        """Hear of a finished trial; trials come in order."""

    def at(self, folder: Path) -> Self:
        """Return the same evaluator for a worker, which writes to a folder of its own."""
        return self
