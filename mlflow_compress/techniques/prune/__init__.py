"""``prune``: set the weights that matter least to zero."""

from mlflow_compress.techniques.prune.technique import TECHNIQUE, Prune, PruneSettings

__all__ = ["TECHNIQUE", "Prune", "PruneSettings"]
