"""Search: spaces, strategies, the study that drives them, the trial that measures."""

from mlflow_compress.search.budget import Budget
from mlflow_compress.search.cache import StepCache, is_cached
from mlflow_compress.search.dimensions import Choice, Range
from mlflow_compress.search.effects import Effect, allocate, sensitivity, sensitivity_rows
from mlflow_compress.search.evaluator import Evaluator
from mlflow_compress.search.evolution import Tried
from mlflow_compress.search.executors import (
    Executor,
    Inline,
    Options,
    Process,
    check_workers,
    executor_names,
    get_executor,
    start_early,
    usual_workers,
)
from mlflow_compress.search.front import (
    OBJECTIVES,
    Objective,
    Reward,
    front,
    hypervolume,
    objective_values,
)
from mlflow_compress.search.goals import ALLOWANCE, violations, volume
from mlflow_compress.search.observer import NullObserver, Observer, SearchInfo
from mlflow_compress.search.screen import DroppedError, Screen
from mlflow_compress.search.seeding import bind, levels_of, seed_points, shrink
from mlflow_compress.search.source import check_same, look_at_source
from mlflow_compress.search.space import Point, Space
from mlflow_compress.search.strategies import Strategy, get_strategy, strategy_names
from mlflow_compress.search.study import SearchOptions, run_search
from mlflow_compress.search.trial import TrialEvaluator
from mlflow_compress.search.yardstick import check_limits, check_yardstick

__all__ = [
    "ALLOWANCE",
    "OBJECTIVES",
    "Budget",
    "Choice",
    "DroppedError",
    "Effect",
    "Evaluator",
    "Executor",
    "Inline",
    "NullObserver",
    "Objective",
    "Observer",
    "Options",
    "Point",
    "Process",
    "Range",
    "Reward",
    "Screen",
    "SearchInfo",
    "SearchOptions",
    "Space",
    "StepCache",
    "Strategy",
    "TrialEvaluator",
    "Tried",
    "allocate",
    "bind",
    "check_limits",
    "check_same",
    "check_workers",
    "check_yardstick",
    "executor_names",
    "front",
    "get_executor",
    "get_strategy",
    "hypervolume",
    "is_cached",
    "levels_of",
    "look_at_source",
    "objective_values",
    "run_search",
    "seed_points",
    "sensitivity",
    "sensitivity_rows",
    "shrink",
    "start_early",
    "strategy_names",
    "usual_workers",
    "violations",
    "volume",
]
