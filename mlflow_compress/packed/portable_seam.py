"""Where the portable profile plugs in.

``pack(model, "portable")`` hands a copy of the model, which may be changed, to
``portable.pack_model``; ``unpack`` and ``load`` hand a packed model to ``portable.open_model``,
which gives back the same :class:`~mlflow_compress.packed.opening.Container` as a compact one
does, its weights' ``decode_into`` overridden. The entries are those of the compact directory
(``format.Directory``), serialised by ``format.write_directory`` and kept base64-coded in
``metadata_props["mlflow_compress"]``; ``graphs.weights``, ``graphs.describe``,
``graphs.take_out`` and ``graphs.put_back`` do the taking apart and putting together.
"""

from typing import TYPE_CHECKING

from onnx import ModelProto

if TYPE_CHECKING:
    from mlflow_compress.packed.opening import Container

__all__ = ["open_model", "pack"]


def pack(model: ModelProto, session_bytes: int | None) -> ModelProto:
    """Pack a private copy of a model in the portable profile."""
    from mlflow_compress.packed.portable import write as portable

    if session_bytes is None:
        return portable.pack_model(model)
    return portable.pack_model(model, session_bytes)


def open_model(model: ModelProto, file_bytes: int, max_bytes: int) -> "Container | None":
    """Take a private copy of a portable model apart; None if it is none.

    Raises:
        PackedFormatError: if it is damaged or hostile.
    """
    from mlflow_compress.packed.portable import read as portable_read

    if not portable_read.is_portable(model):
        return None
    return portable_read.open_model(model, file_bytes, max_bytes)
