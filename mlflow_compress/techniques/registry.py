"""Finds techniques by name in the entry-point group ``mlflow_compress.techniques``."""

from functools import cache
from typing import Any

from mlflow_compress.base.plugins import Group
from mlflow_compress.errors import TechniqueError
from mlflow_compress.techniques.base import Technique

__all__ = ["get", "names", "provider"]

_GROUP = Group("mlflow_compress.techniques", "technique")

names = _GROUP.names
provider = _GROUP.provider


@cache
def get(name: str) -> Technique[Any]:
    """Return the technique of this name.

    Raises:
        ConfigError: no installed package provides it.
        TechniqueError: the entry point does not lead to a technique.
        DataError: its module does not work.
    """
    technique = _GROUP.load(name)
    if not isinstance(technique, Technique):
        raise TechniqueError(
            f"technique {name!r}: {_GROUP.point(name).value} is a {type(technique).__name__}, "
            f"not an instance of mlflow_compress.techniques.Technique"
        )
    return technique
