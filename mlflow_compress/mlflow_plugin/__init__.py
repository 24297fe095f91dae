"""MLflow's surfaces: the flavor, the record of a search, the source, the run context.

``import mlflow`` itself imports this package for its entry point, so that the names here are
loaded when they are used.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mlflow_compress.mlflow_plugin.flavor import download_packed
    from mlflow_compress.recording.search import Tracker
    from mlflow_compress.tracking.client import connect
    from mlflow_compress.tracking.source import ResolvedSource, resolve

__all__ = ["ResolvedSource", "Tracker", "connect", "download_packed", "resolve"]

_HOMES = {
    "ResolvedSource": "mlflow_compress.tracking.source",
    "Tracker": "mlflow_compress.recording.search",
    "connect": "mlflow_compress.tracking.client",
    "download_packed": "mlflow_compress.mlflow_plugin.flavor",
    "resolve": "mlflow_compress.tracking.source",
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first asked for."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)
