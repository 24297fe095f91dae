"""Contracts of the extension points as test classes: a plugin's tests inherit every case.

The only part of the package that imports pytest. See ``docs/extending.md``.
"""

from mlflow_compress.testing.executor import ExecutorContract
from mlflow_compress.testing.metric import MetricContract
from mlflow_compress.testing.strategy import StrategyContract
from mlflow_compress.testing.target import TargetContract
from mlflow_compress.testing.technique import TechniqueContract

__all__ = [
    "ExecutorContract",
    "MetricContract",
    "StrategyContract",
    "TargetContract",
    "TechniqueContract",
]
