"""What a search would only find out late, or never say: looked for before anything is run."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from mlflow_compress import measure, techniques
from mlflow_compress.base.modules import require_modules
from mlflow_compress.errors import ConfigError
from mlflow_compress.jobs.prepare import Plan, make_executor, metric_of
from mlflow_compress.search import Inline
from mlflow_compress.targets.limits import limits_of

if TYPE_CHECKING:
    from mlflow_compress.records import Recipe

__all__ = ["check_search", "idle_settings"]

_LATENCIES = ("latency_p50", "latency_p95")


def check_search(plan: Plan) -> None:
    """Refuse a search that cannot come to what is asked of it.

    Raises:
        ConfigError: a target asks for a latency, and none is measured.
        MissingDependencyError: a step, the executor or the metric needs a package that is not
            installed.
    """
    if plan.config.search.latency_rounds == 0:
        for key in _asked_latencies(plan):
            raise ConfigError(
                f"{key} needs a latency, and search.latency_rounds is 0, which measures none: set "
                "it to 15 or so"
            )
    trains = plan.train is not None
    for where, recipe in _recipes(plan):
        for step, needed in techniques.needed_modules(recipe, trains=trains):
            with_rows = " with data.train" if trains else ""
            require_modules(needed, f"{where}: {step}{with_rows}")
    executor = make_executor(plan)
    require_modules(executor.needs_modules, f"search.executor {executor.name}")
    if plan.is_labelled:
        spec = metric_of(plan.config.data)
        require_modules(measure.find_metric(spec).needs_modules, f"data.metric {spec.label}")


def idle_settings(plan: Plan) -> Iterator[str]:
    """Yield a line for each setting that was made and that nothing will look at."""
    data, search = plan.config.data, plan.config.search
    recipes = [recipe for _, recipe in _recipes(plan)]
    calibrated = search.sensitivity or any(map(techniques.uses_calibration, recipes))
    if data.calibration is not None and not calibrated:
        yield "data.calibration: no step of any recipe looks at these rows"
    trained = any(needed for one in recipes for needed in techniques.training_steps(one))
    if data.train is not None and not trained:
        used = "they calibrate only" if calibrated and data.calibration is None else "they are idle"
        yield f"data.train: no step of any recipe trains on these rows, {used}"
    if search.cache == 0 and search.cache_folder is not None:
        yield "search.cache_folder: search.cache is 0, nothing is kept there"
    if (search.workers or 1) > 1 and search.executor == Inline.name:
        yield f"search.workers: the executor inline runs one trial at a time, not {search.workers}"


def _recipes(plan: Plan) -> Iterator[tuple[str, "Recipe"]]:
    """Yield the recipes at the ends of each range and for each choice, with the keys they have."""
    key = "recipe" if plan.config.recipe is not None else "recipes"
    for index, recipe in plan.space.corners():
        yield f"{key}[{index}]", recipe


def _asked_latencies(plan: Plan) -> Iterator[str]:
    for target in plan.targets:
        for limit in limits_of(target):
            if limit.name in _LATENCIES:
                yield f"target {target.name!r}: {limit.key}"
        if target.objective in ("latency", "reward"):
            yield f"target {target.name!r}: objective {target.objective}"
