"""``float16``: weights in half precision, computed with in single."""

from mlflow_compress.techniques.float16.settings import Float16Settings
from mlflow_compress.techniques.float16.technique import TECHNIQUE, Float16

__all__ = ["TECHNIQUE", "Float16", "Float16Settings"]
