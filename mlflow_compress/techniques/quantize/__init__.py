"""``quantize``: 8-bit weights and activations, the variant that is also fast."""

from mlflow_compress.techniques.quantize.technique import TECHNIQUE, Quantize, QuantizeSettings

__all__ = ["TECHNIQUE", "Quantize", "QuantizeSettings"]
