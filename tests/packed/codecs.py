"""What tests about one backend need to know of the run they are in."""

import os

import pytest

from mlflow_compress.packed.codec import backends


def need_c():
    """Skip where the run is forced to numpy; fail where the extension is missing."""
    if os.environ.get(backends.VARIABLE) == "numpy":
        pytest.skip("about C; this run is forced to numpy")
    assert backends._c is not None, "build the extension: pip install -e ."
