"""The registry: the policy that decides, and the thin layer that applies it to MLflow."""

from mlflow_compress.registry.policy import best_for, check, closest, decide, feasible

__all__ = ["best_for", "check", "closest", "decide", "feasible"]
