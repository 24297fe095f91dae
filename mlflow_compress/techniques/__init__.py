"""Techniques: transforms of a model, run in order by a recipe."""

from typing import TYPE_CHECKING, Any

from mlflow_compress.techniques.base import (
    Context,
    OrderError,
    Phase,
    Result,
    Subnets,
    Technique,
    at_least,
    between,
    check_choices,
    closest,
    one_of,
)
from mlflow_compress.techniques.recipe import (
    RecipeResult,
    apply_recipe,
    apply_step,
    needed_modules,
    needs_calibration,
    needs_training,
    training_steps,
    uses_calibration,
    validate_recipe,
    with_reference,
)
from mlflow_compress.techniques.registry import get, names

if TYPE_CHECKING:
    from mlflow_compress.techniques.graph.normal import normalize

__all__ = [
    "Context",
    "OrderError",
    "Phase",
    "RecipeResult",
    "Result",
    "Subnets",
    "Technique",
    "apply_recipe",
    "apply_step",
    "at_least",
    "between",
    "check_choices",
    "closest",
    "get",
    "names",
    "needed_modules",
    "needs_calibration",
    "needs_training",
    "normalize",
    "one_of",
    "training_steps",
    "uses_calibration",
    "validate_recipe",
    "with_reference",
]


def __getattr__(name: str) -> Any:
    # onnx is imported only by what works on a model, not to validate a recipe
    if name == "normalize":
        from mlflow_compress.techniques.graph.normal import normalize

        return normalize
    raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
