"""The one place that imports neural_compressor: quietly, and with its known faults mended."""

import gc
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from mlflow_compress.errors import MissingDependencyError, TechniqueError

__all__ = ["FAILURES", "failed", "library", "little_garbage", "quiet"]

FAILURES = (RuntimeError, ValueError, TypeError, AssertionError, KeyError, NotImplementedError)
"""What the library raises on a model that it cannot handle."""


def library() -> Any:
    """Return ``neural_compressor.torch.quantization``.

    Raises:
        MissingDependencyError: it is not installed.
    """
    try:
        with quiet():
            from neural_compressor.torch import quantization
            from neural_compressor.torch.algorithms.weight_only import gptq, rtn
    except ImportError as error:
        raise MissingDependencyError(
            f"neural_compressor does not import ({error}): "
            "pip install mlflow-compress-neural-compressor"
        ) from error
    # Both look at run time whether transformers was imported, and expect that it was before them.
    if "transformers" in sys.modules:
        for module in (gptq, rtn):
            vars(module).setdefault("transformers", sys.modules["transformers"])
    return quantization


def failed(error: Exception) -> TechniqueError:
    """Return the error that a person sees when the library raised one."""
    lines = str(error).strip().splitlines() or [repr(error)]
    return TechniqueError(f"neural_compressor fails on this model: {lines[0]}")


@contextmanager
def quiet() -> Iterator[None]:
    """Keep the library's log and tables from the user's terminal."""
    log = logging.getLogger("neural_compressor")

    def mute(_record: logging.LogRecord) -> bool:
        return False

    log.addFilter(mute)  # not by its level, which is set when it is imported
    try:
        yield
    finally:
        log.removeFilter(mute)


@contextmanager
def little_garbage() -> Iterator[None]:
    """Make collecting garbage cheap: GPTQ does it after each layer, for longer than a layer takes.

    What exists already is not looked at meanwhile.
    """
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
