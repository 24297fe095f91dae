"""Techniques: transforms of a model, run in order by a recipe."""

from mlflow_compress.techniques.base import Context, OrderError, Phase, Result, Technique
from mlflow_compress.techniques.recipe import (
    RecipeResult,
    apply_recipe,
    needs_calibration,
    validate_recipe,
)
from mlflow_compress.techniques.registry import get, names

__all__ = [
    "Context",
    "OrderError",
    "Phase",
    "RecipeResult",
    "Result",
    "Technique",
    "apply_recipe",
    "get",
    "names",
    "needs_calibration",
    "validate_recipe",
]
