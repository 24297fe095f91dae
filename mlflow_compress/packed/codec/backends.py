"""Which implementation runs: C when it was built, numpy otherwise; never swapped silently.

The environment variable ``MLFLOW_COMPRESS_BACKEND`` (``c`` or ``numpy``) forces one. Both have the
same names and give the same bytes in both directions.
"""

import os
from typing import Literal

from mlflow_compress.errors import ConfigError
from mlflow_compress.packed.codec.in_numpy import VARIABLE


def _chosen() -> Literal["c", "numpy"]:
    wanted = os.environ.get(VARIABLE, "")
    if wanted not in ("", "c", "numpy"):
        raise ConfigError(f"{VARIABLE} must be 'c' or 'numpy', got '{wanted}'")
    if wanted == "numpy":
        return "numpy"
    try:
        from mlflow_compress.packed.codec import _huffman  # noqa: F401
    except ImportError as error:
        if wanted == "c":
            raise ConfigError(
                f"{VARIABLE} is 'c', but the C extension was not built "
                "(install a C compiler and reinstall mlflow-compress)"
            ) from error
        return "numpy"
    return "c"


backend = _chosen()

if backend == "c":
    from mlflow_compress.packed.codec.in_c import *  # noqa: F403
else:
    from mlflow_compress.packed.codec.in_numpy import *  # noqa: F403
