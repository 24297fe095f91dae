"""``weight_only``: weights of 2 to 8 bits, activations in float."""

from mlflow_compress.techniques.weight_only.settings import WeightOnlySettings
from mlflow_compress.techniques.weight_only.technique import TECHNIQUE, WeightOnly

__all__ = ["TECHNIQUE", "WeightOnly", "WeightOnlySettings"]
