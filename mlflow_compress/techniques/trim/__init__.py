"""``trim``: take away what a finished model does not need; smaller for free."""

from mlflow_compress.techniques.trim.settings import TrimSettings
from mlflow_compress.techniques.trim.technique import TECHNIQUE, Trim

__all__ = ["TECHNIQUE", "Trim", "TrimSettings"]
