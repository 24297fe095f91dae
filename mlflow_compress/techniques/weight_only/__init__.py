"""``weight_only``: weights of 2 to 8 bits, activations in float."""

from mlflow_compress.techniques.weight_only.technique import (
    TECHNIQUE,
    WeightOnly,
    WeightOnlySettings,
)

__all__ = ["TECHNIQUE", "WeightOnly", "WeightOnlySettings"]
