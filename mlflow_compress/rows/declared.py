"""What a model says of its inputs and outputs, and what their names and sizes tell of the rows."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import helper

from mlflow_compress.errors import SourceError
from mlflow_compress.rows.ragged import Array

__all__ = [
    "Declared",
    "Size",
    "declared_inputs",
    "declared_outputs",
    "likely_count",
    "named_axes",
    "shown",
]

Size = int | str | None
"""A size, the name that stands for it, or nothing known."""


@dataclass(frozen=True)
class Declared:
    """What a model says of an input or output.

    Attributes:
        name: its name.
        dims: each axis' size, the name that stands for it, or None; None when the rank is open.
        dtype: its dtype; None for text.
    """

    name: str
    dims: tuple[Size, ...] | None
    dtype: "np.dtype[np.generic] | None"

    def fits(self, shape: Sequence[int], but: int | None = None) -> bool:
        """Whether a shape agrees with every size that is fixed, but along one axis."""
        if self.dims is None:
            return True
        return len(self.dims) == len(shape) and all(
            axis == but or not isinstance(size, int) or size == got
            for axis, (size, got) in enumerate(zip(self.dims, shape, strict=True))
        )

    @property
    def is_fixed(self) -> bool:
        """Whether every size is fixed; numbers without an axis are."""
        return self.dims is not None and all(isinstance(size, int) for size in self.dims)


def declared_inputs(model: onnx.ModelProto) -> dict[str, Declared]:
    """Return what a model says of its inputs that have to be given, by name.

    Raises:
        SourceError: an input has a type that ONNX does not have.
    """
    held = {tensor.name for tensor in model.graph.initializer}
    return {v.name: _declared(v) for v in model.graph.input if v.name not in held}


def declared_outputs(model: onnx.ModelProto) -> dict[str, Declared]:
    """Return what a model says of its outputs that are tensors, by name.

    Raises:
        SourceError: one has a type that ONNX does not have.
    """
    return {value.name: _declared(value) for value in model.graph.output
            if value.type.HasField("tensor_type")}  # fmt: skip


def _declared(value: onnx.ValueInfoProto) -> Declared:
    kind = _tensor_of(value.type)
    dims: tuple[Size, ...] | None = None
    if kind.HasField("shape"):
        dims = tuple(d.dim_value if d.dim_value > 0 else d.dim_param or None
                     for d in kind.shape.dim)  # fmt: skip
    if kind.elem_type in (onnx.TensorProto.STRING, onnx.TensorProto.UNDEFINED):
        return Declared(value.name, dims, None)
    try:
        return Declared(value.name, dims, helper.tensor_dtype_to_np_dtype(kind.elem_type))
    except KeyError:
        raise SourceError(
            f"{value.name!r} has elements of type {kind.elem_type}, which ONNX does not have: "
            "mend the model's declaration"
        ) from None


def _tensor_of(kind: onnx.TypeProto) -> onnx.TypeProto.Tensor:
    """Return the tensor that a type is, or that an optional one holds when it is given."""
    if kind.HasField("optional_type"):
        return _tensor_of(kind.optional_type.elem_type)
    return kind.tensor_type


def named_axes(inputs: Mapping[str, Declared], outputs: Mapping[str, Declared]) -> dict[str, int]:
    """Return the axes after the first that a model names as the first axis of its outputs.

    As a network that takes the steps first: ``x`` of [steps, batch, features] and ``y`` of
    [batch, classes]. Nothing where the first axis of an input has a name that outputs have too.
    """
    given = {size for one in outputs.values() for size in one.dims or () if isinstance(size, str)}
    if any(one.dims and one.dims[0] in given for one in inputs.values()):
        return {}
    firsts = {one.dims[0] for one in outputs.values() if one.dims and isinstance(one.dims[0], str)}
    taken = {size for one in inputs.values() for size in one.dims or ()}
    names = firsts & taken
    if len(names) != 1:
        return {}
    return {
        one.name: axis
        for one in inputs.values()
        for axis, size in enumerate(one.dims or ())
        if size in names and list(one.dims or ()).count(size) == 1
    }


def likely_count(firsts: Sequence[Array], every: Sequence[Array]) -> int | None:
    """Return the number of rows: the size of a first axis that most arrays have along some axis.

    One row is the last guess, as many arrays have an axis of 1; of equal ones the largest is taken.

    Args:
        firsts: the arrays whose first axis may be the rows.
        every: all arrays.
    """
    found: Counter[int] = Counter({len(array): 0 for array in firsts})
    for array in every:
        for size in set(array.shape) if isinstance(array, np.ndarray) else {len(array)}:
            if size in found:
                found[size] += 1
    return max(found, key=lambda size: (size > 1, found[size], size), default=None)


def shown(dims: Sequence[Size]) -> str:
    """Return a model's shape as a person reads it."""
    return f"[{', '.join('any' if size is None else str(size) for size in dims)}]"
