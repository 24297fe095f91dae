"""Checkpoints of trainings: written whole or not at all; one that is broken is as good as none."""

import logging
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from mlflow_compress.files import replacing

__all__ = ["read_checkpoint", "write_checkpoint"]

_log = logging.getLogger(__name__)

_DAMAGED = (OSError, EOFError, RuntimeError, ValueError, KeyError, pickle.UnpicklingError)


def write_checkpoint(state: Mapping[str, Any], path: Path) -> None:
    """Write a state in place of the one before; where that cannot be, warn and go on."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as beside:
            torch.save(dict(state), beside)
    except (OSError, RuntimeError) as error:  # torch tells of a full disk by the second
        _log.warning("no checkpoint can be written to %s: %s", path.parent, error)


def read_checkpoint(path: Path) -> dict[str, Any] | None:
    """Return the state that was written; None, with a warning, where it is damaged."""
    try:
        # written by ourselves, under a name that holds a digest of all it depends on
        state: dict[str, Any] = torch.load(path, weights_only=False)
    except _DAMAGED as error:
        _log.warning("checkpoint %s is damaged, training begins anew: %s", path, error)
        return None
    return state
