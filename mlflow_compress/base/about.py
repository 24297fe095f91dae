"""Which version of this plugin is at work."""

from importlib.metadata import PackageNotFoundError, version

__all__ = ["plugin_version"]


def plugin_version() -> str:
    """Return the installed distribution's version, ``unknown`` for a bundled copy."""
    try:
        return version("mlflow-compress")
    except PackageNotFoundError:
        return "unknown"
