"""Checkpoints of trainings: written whole or not at all; one that is broken is as good as none.

So is one that holds anything else than tensors, plain values and the records of its training: a
pickle that names other things would be a program, and whoever may write the folder could write one.
"""

import logging
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from mlflow_compress.base.files import replacing

__all__ = ["read_checkpoint", "write_checkpoint"]

_log = logging.getLogger(__name__)

_EARLIER = {
    "mlflow_compress.techniques.data.Epoch": ("mlflow_compress.techniques.train_data.Epoch",),
}
"""Names that a class had in checkpoints of earlier versions."""

_DAMAGED = (OSError, EOFError, RuntimeError, ValueError, KeyError, pickle.UnpicklingError)


def write_checkpoint(state: Mapping[str, Any], path: Path) -> None:
    """Write a state in place of the one before; where that cannot be, warn and go on."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as beside:
            torch.save(dict(state), beside)
    except (OSError, RuntimeError) as error:  # torch tells of a full disk by the second
        _log.warning("no checkpoint can be written to %s: %s", path.parent, error)


def read_checkpoint(path: Path, record: type) -> dict[str, Any] | None:
    """Return the state that was written; None, with a warning, where it is damaged.

    Args:
        path: the checkpoint.
        record: the only class that it may name, that of the epochs in its history.
    """
    try:
        with torch.serialization.safe_globals(_names_of(record)):
            state: Any = torch.load(path, weights_only=True)
        if not isinstance(state, dict):
            raise ValueError(f"it holds a {type(state).__name__}")
    except _DAMAGED as error:
        first = str(error).strip().split("\n", 1)[0]
        _log.warning("checkpoint %s is damaged, training begins anew: %s", path, first)
        return None
    return state


def _names_of(record: type) -> list[Any]:
    """Return a class with the names that it has in checkpoints, those of before it moved too."""
    name = f"{record.__module__}.{record.__qualname__}"
    return [record, *((record, earlier) for earlier in _EARLIER.get(name, ()))]
