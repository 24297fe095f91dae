"""The name that ``mlflow_compress.techniques.graph`` had before; it goes with version 0.3."""

import warnings

from mlflow_compress.techniques.graph.running import *  # noqa: F403

warnings.warn(
    f"{__name__} is mlflow_compress.techniques.graph now", DeprecationWarning, stacklevel=2
)
