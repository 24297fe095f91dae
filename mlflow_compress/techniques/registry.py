"""Finds techniques by name in the entry-point group ``mlflow_compress.techniques``."""

from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from mlflow_compress.errors import ConfigError, TechniqueError
from mlflow_compress.techniques.base import Technique, closest

__all__ = ["GROUP", "get", "names"]

GROUP = "mlflow_compress.techniques"


@cache
def _points() -> dict[str, EntryPoint]:
    return {point.name: point for point in entry_points(group=GROUP)}


def names() -> tuple[str, ...]:
    """Return the names of all installed techniques, sorted."""
    return tuple(sorted(_points()))


@cache
def get(name: str) -> Technique[Any]:
    """Return the technique of this name.

    Raises:
        ConfigError: no installed package provides it.
        TechniqueError: the entry point does not lead to a technique.
    """
    points = _points()
    if name not in points:
        raise ConfigError(
            f"technique {name!r} does not exist{closest(name, points)}; "
            f"installed: {', '.join(names()) or 'none (is mlflow-compress installed?)'}"
        )
    technique = points[name].load()
    if not isinstance(technique, Technique):
        raise TechniqueError(
            f"technique {name!r}: {points[name].value} is a {type(technique).__name__}, "
            f"not an instance of mlflow_compress.techniques.Technique"
        )
    return technique
