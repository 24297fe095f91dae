"""What tests about one backend need to know of the run they are in."""

import os

import pytest

from mlflow_compress.packed.codec import backends, in_numpy


def need_c():
    """Skip where the run is forced to numpy; fail where the extension is missing."""
    if os.environ.get(backends.VARIABLE) == "numpy":
        pytest.skip("about C; this run is forced to numpy")
    assert backends.backend == "c", "build the extension: pip install -e ."


def use_numpy(monkeypatch):
    """Have numpy do what the codec does, as where the extension was not built."""
    for name in in_numpy.__all__:
        monkeypatch.setattr(backends, name, getattr(in_numpy, name))


def use_fast_paths(on):
    """Have C take the processor's special paths, or not; nothing where there is no C."""
    if backends.backend == "c":
        from mlflow_compress.packed.codec import _huffman

        _huffman.use_fast_paths(on)
