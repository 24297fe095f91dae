"""ONNX models as torch modules: what authors of techniques may build on.

The names here are public: they stay, or warn for a release before they go. torch is an extra.
"""

from mlflow_compress.techniques.training.export import export_torch, quiet_export
from mlflow_compress.techniques.training.interpreter import (
    GraphConv,
    Interpreter,
    check_interpreter,
)
from mlflow_compress.techniques.training.windows import padding

__all__ = [
    "GraphConv",
    "Interpreter",
    "check_interpreter",
    "export_torch",
    "padding",
    "quiet_export",
]
