"""What onnx's checker has against a model that a step made, and not against the one it was given.

onnxruntime runs graphs that the checker does not like: of a source it is the judge.
"""

from onnx import ModelProto, checker, shape_inference

from mlflow_compress.errors import TechniqueError
from mlflow_compress.techniques.graph.running import session

__all__ = ["refuse_new_problem"]


def refuse_new_problem(
    given: ModelProto, made: ModelProto, what: str, *, strict: bool = False
) -> None:
    """Refuse a model of which onnx's checker says what it does not say of another.

    Args:
        given: the model before.
        made: the model after.
        what: what the message begins with.
        strict: look at types and shapes too.

    Raises:
        TechniqueError: what the checker says, or onnxruntime, where it takes the given model.
    """
    problem = _problem(made, strict)
    if problem and problem != _problem(given, strict):
        raise TechniqueError(f"{what}: {problem}")
    if problem:  # the checker stops at the first one, and would see no other
        try:
            session(given, fast=True)
        except TechniqueError:
            return  # it runs nowhere, whatever a step does
        try:
            session(made, fast=True)
        except TechniqueError as error:
            raise TechniqueError(f"{what}: {error}") from error


def _problem(model: ModelProto, strict: bool) -> str:
    """Return what is wrong in one line, empty when nothing is."""
    try:
        checker.check_model(model, full_check=strict)
        if strict:
            shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)
    except (checker.ValidationError, shape_inference.InferenceError) as error:
        return str(error).strip().splitlines()[0]
    return ""
