"""What each output of a model is, and how close another model's comes to it."""

from mlflow_compress.measure.outputs.given import check_given, parse_text
from mlflow_compress.measure.outputs.tell import Evidence, tell_outputs

__all__ = [
    "Evidence",
    "check_given",
    "parse_text",
    "tell_outputs",
]
