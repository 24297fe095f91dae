"""``quantize``: 8-bit weights and activations, the variant that is also fast."""

from mlflow_compress.techniques.quantize.settings import QuantizeSettings
from mlflow_compress.techniques.quantize.technique import TECHNIQUE, Quantize

__all__ = ["TECHNIQUE", "Quantize", "QuantizeSettings"]
