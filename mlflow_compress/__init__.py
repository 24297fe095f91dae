"""Compress MLflow models and promote the best variant to each edge target.

Names are loaded when they are used: ``import mlflow`` reads this package's entry points, so
nothing heavy, and not mlflow itself, may be imported here.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mlflow_compress.api import compress
    from mlflow_compress.base.declared import metric
    from mlflow_compress.jobs.compress import Outcome

__all__ = ["Outcome", "compress", "metric"]

_HOMES = {
    "compress": "mlflow_compress.api",
    "Outcome": "mlflow_compress.jobs.compress",
    "metric": "mlflow_compress.base.declared",
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first asked for."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return [*globals(), *__all__]
