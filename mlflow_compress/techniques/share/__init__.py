"""``share``: let the weights of a tensor share a few values."""

from mlflow_compress.techniques.share.settings import ShareSettings
from mlflow_compress.techniques.share.technique import TECHNIQUE, Share

__all__ = ["TECHNIQUE", "Share", "ShareSettings"]
