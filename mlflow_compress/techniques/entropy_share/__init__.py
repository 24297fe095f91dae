"""``entropy_share``: the values that cost the fewest bits for the error they make."""

from mlflow_compress.techniques.entropy_share.settings import EntropyShareSettings
from mlflow_compress.techniques.entropy_share.technique import TECHNIQUE, EntropyShare

__all__ = ["TECHNIQUE", "EntropyShare", "EntropyShareSettings"]
