"""``prune``: set the weights that matter least to zero."""

from mlflow_compress.techniques.prune.settings import PruneSettings
from mlflow_compress.techniques.prune.technique import TECHNIQUE, Prune

__all__ = ["TECHNIQUE", "Prune", "PruneSettings"]
