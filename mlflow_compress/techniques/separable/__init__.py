"""``separable``: replace convolutions by a depthwise and a pointwise one, where that pays."""

from mlflow_compress.techniques.separable.settings import SeparableSettings
from mlflow_compress.techniques.separable.technique import TECHNIQUE, Separable

__all__ = ["TECHNIQUE", "Separable", "SeparableSettings"]
