"""``dynamic``: 8-bit matrix products whose activation ranges are read at run time."""

from mlflow_compress.techniques.dynamic.settings import DynamicSettings
from mlflow_compress.techniques.dynamic.technique import TECHNIQUE, Dynamic

__all__ = ["TECHNIQUE", "Dynamic", "DynamicSettings"]
