"""Huffman-packed ONNX models: the format, the codec and the runtime (``docs/format.md``)."""

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


def __getattr__(name: str) -> Any:
    # onnxruntime is imported only by what runs or rebuilds a model
    if name in _LAZY:
        from mlflow_compress.packed import runtime

        return getattr(runtime, name)
    raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
