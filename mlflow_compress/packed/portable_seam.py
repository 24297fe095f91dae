"""Where the portable profile plugs in.

``pack(model, "portable")`` hands a copy of the model, which may be changed, to
``portable.pack_model``; ``unpack`` and ``load`` hand a packed model to ``portable.open_model``,
which gives back the same :class:`~mlflow_compress.packed.container.Container` as a compact one
does, its weights' ``decode_into`` overridden. The entries are those of the compact directory
(``format.Directory``), serialised by ``format.write_directory`` and kept base64-coded in
``metadata_props["mlflow_compress"]``; ``graphs.weights``, ``graphs.describe``,
``graphs.take_out`` and ``graphs.put_back`` do the taking apart and putting together.
"""

from onnx import ModelProto

__all__ = ["pack"]


def pack(model: ModelProto) -> ModelProto:
    """Pack a private copy of a model in the portable profile."""
    from mlflow_compress.packed import portable

    return portable.pack_model(model)
