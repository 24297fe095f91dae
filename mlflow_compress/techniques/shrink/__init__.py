"""``shrink``: make the network itself smaller and faster.

Of any model whole channels are removed; of a supernet (:mod:`mlflow_compress.nas`) a smaller
network is taken, whose weights were trained to work on their own.
"""

from mlflow_compress.techniques.shrink.settings import ShrinkSettings
from mlflow_compress.techniques.shrink.technique import TECHNIQUE, Shrink

__all__ = ["TECHNIQUE", "Shrink", "ShrinkSettings"]
