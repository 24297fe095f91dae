"""``autotune``: Neural Compressor's tuning, with the project's evaluator and the targets' limits.

Its own loop quantizes and scores by itself. Here its parts (configurations, their sampler, and the
monitor that says when to stop) drive the search, and every trial is applied, packed and measured
as any other.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from mlflow_compress.errors import ConfigError
from mlflow_compress.records import Recipe
from mlflow_compress.search import ALLOWANCE, Point, Space, Tried
from mlflow_compress_neural_compressor.library import library, quiet

__all__ = ["Autotune"]

_TECHNIQUES = ("neural_compressor", "neural_compressor_static")

_TOLERANCE = 0.01
"""The drop of accuracy that ends the tuning where no target has a limit: the library's default."""


class Autotune:
    """Tries the recipes of a space from the smallest weights on, until one is good enough.

    Good enough is what breaks no limit of a target; where there is none, what loses at most one
    point. Every recipe has a step of this package: it is what the library tunes.
    """

    window = 1
    """Each trial may be the last."""

    def __init__(self) -> None:
        """Start with nothing tried."""
        self._points: list[Point] = []
        self._configs: Iterator[Any] = iter(())
        self._monitor: Any = None
        self._told = 0
        self._done = False

    def points(self, space: Space) -> Iterable[Point] | None:
        """Leave the choice to :meth:`propose`.

        Raises:
            ConfigError: the space has a recipe that the library cannot tune, or is infinite.
        """
        self._begin(space)
        return None

    def propose(
        self, space: Space, history: Sequence[Tried], rng: np.random.Generator
    ) -> Point | None:
        """Return the next smallest point, or None when the last one was good enough."""
        for tried in history[self._told :]:
            self._told += 1
            with quiet():
                self._monitor.add_trial_result(self._told, _result(tried), None)
            self._done = self._done or self._monitor.need_stop()
        if self._done or next(self._configs, None) is None:
            return None
        return self._points.pop(0)

    def _begin(self, space: Space) -> None:
        nc = library()
        from neural_compressor.common.base_tuning import init_tuning

        if not space.is_listable:
            raise ConfigError(
                "search.strategy autotune: a range without a step has infinitely many values; "
                "give it a step or choices"
            )
        recipes: dict[str, tuple[Recipe, Point]] = {}
        for point in space.points():
            recipe = space.recipe(point)
            recipes.setdefault(recipe.digest, (recipe, point))
        ordered = sorted(recipes.values(), key=lambda pair: _bits(pair[0]))
        configs = [_config(nc, recipe) for recipe, _ in ordered]
        self._points = [point for _, point in ordered]
        tuning = nc.TuningConfig(config_set=configs, tolerable_loss=0.0, max_trials=len(configs))
        with quiet():
            loader, _, self._monitor = init_tuning(tuning)
            # recipes that differ elsewhere may have equal configurations
            loader.skip_verified_config = False
            self._monitor.set_baseline(1.0)
        self._configs = iter(loader)


def _settings(recipe: Recipe) -> tuple[str, Mapping[str, Any]]:
    for step in recipe.steps:
        if step.technique in _TECHNIQUES:
            return step.technique, step.settings
    raise ConfigError(
        f"search.strategy autotune tunes {' and '.join(_TECHNIQUES)}, and the recipe "
        f"{recipe.label!r} has neither; choose another strategy"
    )


def _bits(recipe: Recipe) -> float:
    """Return about how many bits a weight takes, scales included."""
    technique, settings = _settings(recipe)
    if technique != "neural_compressor":
        return 8.0
    group = settings.get("group_size", 0)
    return settings.get("bits", 4) + (32 / group if group else 0.0)


def _config(nc: Any, recipe: Recipe) -> Any:
    """Return what the library would be told to get this recipe's weights."""
    technique, settings = _settings(recipe)
    if technique != "neural_compressor":
        return nc.StaticQuantConfig(act_algo=settings.get("method", "minmax"))
    maker = nc.RTNConfig if settings.get("algorithm") == "rtn" else nc.GPTQConfig
    return maker(bits=settings.get("bits", 4), group_size=settings.get("group_size", 0) or -1)


def _result(tried: Tried) -> float:
    """Return a trial's score: 1 or more is good enough, which is the monitor's baseline."""
    if tried.values is None:
        return 0.0
    if tried.violations:
        return 1.0 - max(tried.violations.values())
    return 1.0 + _TOLERANCE + min(tried.values) - ALLOWANCE
