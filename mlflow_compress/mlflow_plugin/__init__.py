"""MLflow's surfaces: the flavor, the record of a search, the source, the run context.

``import mlflow`` itself imports this package for its entry point, so that the names here are
loaded when they are used.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mlflow_compress.mlflow_plugin.connection import connect
    from mlflow_compress.mlflow_plugin.flavor import download_packed
    from mlflow_compress.mlflow_plugin.source import ResolvedSource, resolve
    from mlflow_compress.mlflow_plugin.tracking import Tracker

__all__ = ["ResolvedSource", "Tracker", "connect", "download_packed", "resolve"]

_HOMES = {
    "ResolvedSource": "source",
    "Tracker": "tracking",
    "connect": "connection",
    "download_packed": "flavor",
    "resolve": "source",
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first asked for."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
