"""The portable profile: weights that an onnxruntime alone unpacks."""

from importlib import import_module
from typing import Any


def __getattr__(name: str) -> Any:
    # it was one module, which is `write` now; its names here go with version 0.3
    if name in ("METADATA", "pack_model", "rest_crc"):
        return getattr(import_module(f"{__name__}.write"), name)
    raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
