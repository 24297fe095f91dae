"""A TensorProto's data as raw bytes and back, whatever field holds them."""

from typing import Any

import numpy as np
import onnx
from onnx import TensorProto

from mlflow_compress.packed.format import bits_of, decoded_bytes, width_of

_TYPED = {
    TensorProto.FLOAT: ("float_data", "<f4"),
    TensorProto.COMPLEX64: ("float_data", "<f4"),
    TensorProto.DOUBLE: ("double_data", "<f8"),
    TensorProto.COMPLEX128: ("double_data", "<f8"),
    TensorProto.INT64: ("int64_data", "<i8"),
    TensorProto.UINT32: ("uint64_data", "<u4"),
    TensorProto.UINT64: ("uint64_data", "<u8"),
    TensorProto.INT32: ("int32_data", "<i4"),
    TensorProto.INT16: ("int32_data", "<i2"),
    TensorProto.INT8: ("int32_data", "<i1"),
    TensorProto.UINT16: ("int32_data", "<u2"),
    TensorProto.FLOAT16: ("int32_data", "<u2"),
    TensorProto.BFLOAT16: ("int32_data", "<u2"),
}
_FIELDS = (
    "float_data",
    "double_data",
    "int32_data",
    "int64_data",
    "uint64_data",
    "string_data",
)


def _typed(dtype: int) -> tuple[str, str]:
    # every other type is one byte a value (two 4-bit elements share one)
    return _TYPED.get(dtype, ("int32_data", "|u1"))


def packable(tensor: TensorProto) -> bool:
    """Whether a tensor can be a packed weight: a fixed-width type with its data at hand."""
    return (
        bits_of(tensor.data_type) is not None
        and tensor.data_location == TensorProto.DEFAULT
        and not tensor.HasField("segment")
        and all(dim >= 0 for dim in tensor.dims)
    )


def raw_data(tensor: TensorProto) -> tuple[bytes, bool] | None:
    """The data as ``raw_data`` would hold them, and whether they came from the typed field.

    None where that form could not be turned back exactly (both fields set, a wrong length, a
    value out of its type's range, a signalling NaN): such a tensor stays as it is.
    """
    filled = [name for name in _FIELDS if len(getattr(tensor, name))]
    size = decoded_bytes(tensor.data_type, tensor.dims)
    if tensor.HasField("raw_data"):
        return (tensor.raw_data, False) if not filled and len(tensor.raw_data) == size else None
    name, code = _typed(tensor.data_type)
    if filled not in ([], [name]):
        return None
    try:
        data = np.array(getattr(tensor, name)).astype(code).tobytes()
    except (OverflowError, ValueError):
        return None
    if len(data) != size:
        return None
    again = TensorProto(data_type=tensor.data_type, dims=tensor.dims)
    set_data(again, data, typed=True)
    before = TensorProto()
    getattr(before, name).extend(getattr(tensor, name))
    after = TensorProto()
    getattr(after, name).extend(getattr(again, name))
    same = before.SerializeToString(deterministic=True) == after.SerializeToString(
        deterministic=True
    )
    return (data, True) if same else None


def set_data(tensor: TensorProto, data: bytes | bytearray | memoryview, *, typed: bool) -> None:
    """Put data in ``raw_data`` form into a tensor that has its dtype and dims."""
    if typed:
        name, code = _typed(tensor.data_type)
        getattr(tensor, name).extend(np.frombuffer(data, code).tolist())
    else:
        tensor.raw_data = bytes(data)


def clear_data(tensor: TensorProto) -> None:
    """Drop dims, data type and data; what is left is the remainder."""
    tensor.ClearField("dims")
    tensor.ClearField("data_type")
    tensor.ClearField("raw_data")
    for name in _FIELDS:
        tensor.ClearField(name)


def row_items(tensor: TensorProto) -> int:
    """Coded items per index of the first dimension; 0 where rows mean nothing."""
    dims = list(tensor.dims)
    if len(dims) < 2 or dims[0] < 2 or 0 in dims:
        return 0
    items = decoded_bytes(tensor.data_type, dims) // width_of(tensor.data_type)
    return items // dims[0] if items % dims[0] == 0 else 0


def kernel_items(tensor: TensorProto) -> int:
    """Coded items per convolution kernel (dimensions 2 and up); 0 where there is none."""
    dims = list(tensor.dims)
    if len(dims) < 3 or (bits_of(tensor.data_type) or 0) < 8:
        return 0
    return element_count(dims[2:])


def type_name(dtype: int) -> str:
    """ONNX's own lower-case name of a data type (``float``, ``int8``, …)."""
    return str(TensorProto.DataType.Name(dtype)).lower()


def element_count(dims: Any) -> int:
    """Number of elements of a shape."""
    count = 1
    for dim in dims:
        count *= int(dim)
    return count


def constant_tensor(node: onnx.NodeProto) -> TensorProto | None:
    """The tensor of a Constant node that a packed weight can stand for, else None."""
    plain = node.op_type == "Constant" and node.domain in ("", "ai.onnx")
    if plain and len(node.output) == 1 and len(node.attribute) == 1:
        attribute = node.attribute[0]
        if attribute.name == "value" and attribute.type == onnx.AttributeProto.TENSOR:
            return attribute.t
    return None
