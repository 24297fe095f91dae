"""``fold``: compute once what does not depend on the input; smaller for free."""

from mlflow_compress.techniques.fold.settings import FoldSettings
from mlflow_compress.techniques.fold.technique import TECHNIQUE, Fold

__all__ = ["TECHNIQUE", "Fold", "FoldSettings"]
