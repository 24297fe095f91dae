"""Huffman-packed ONNX models: the format, the codec and the runtime (``docs/format.md``)."""

import warnings
from importlib import import_module
from typing import TYPE_CHECKING, Any

from mlflow_compress.packed.codec.backends import backend
from mlflow_compress.packed.inspection import PackedInfo, TensorInfo, inspect
from mlflow_compress.packed.onnx.files import save, to_bytes
from mlflow_compress.packed.packing import pack, pack_file

if TYPE_CHECKING:
    from mlflow_compress.packed.runtime import is_packed, load, unpack, unpack_file, verify

__all__ = [
    "PackedInfo",
    "TensorInfo",
    "backend",
    "inspect",
    "is_packed",
    "load",
    "pack",
    "pack_file",
    "save",
    "to_bytes",
    "unpack",
    "unpack_file",
    "verify",
]
_LAZY = {"is_packed", "load", "unpack", "unpack_file", "verify"}
_EARLIER = {
    "arrays": "codec.arrays",
    "backends": "codec.backends",
    "choose": "codec.choose",
    "container": "opening",
    "files": "onnx.files",
    "graphs": "onnx.graphs",
    "portable_read": "portable.read",
    "portable_stream": "codec.streams",
    "tables": "codec.tables",
}
"""Where modules are that stood here before; these names go with version 0.3."""


def __getattr__(name: str) -> Any:
    # onnxruntime is imported only by what runs or rebuilds a model
    if name in _LAZY:
        from mlflow_compress.packed import runtime

        return getattr(runtime, name)
    if name in _EARLIER:
        now = f"{__name__}.{_EARLIER[name]}"
        warnings.warn(f"{__name__}.{name} is {now} now", DeprecationWarning, stacklevel=2)
        return import_module(now)
    raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
