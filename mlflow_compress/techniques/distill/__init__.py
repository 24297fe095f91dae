"""``distill``: let a smaller model learn from its source; no labels needed."""

from mlflow_compress.techniques.distill.settings import DistillSettings
from mlflow_compress.techniques.distill.technique import TECHNIQUE, Distill

__all__ = ["TECHNIQUE", "Distill", "DistillSettings"]
