"""ONNX operators as PyTorch functions, for :mod:`~mlflow_compress.techniques.training.interpreter`.

A function takes the operator's inputs (None where an optional one is left out) and a
:class:`~mlflow_compress.techniques.training.spec.Spec` with its attributes, and returns one
tensor, or a tuple for several outputs. Arguments that ONNX moved from attributes to inputs over the
years are taken from either.
"""

import math
from collections.abc import Callable, Mapping, Sequence

import torch
import torch.nn.functional as F
from onnx import TensorProto
from torch import Tensor

from mlflow_compress.techniques.training.spec import Operator, Spec, Value, integers, need, optional
from mlflow_compress.techniques.training.windows import WINDOWED

__all__ = ["OPERATORS"]

_DTYPES = {
    TensorProto.FLOAT: torch.float32,
    TensorProto.DOUBLE: torch.float64,
    TensorProto.FLOAT16: torch.float16,
    TensorProto.BFLOAT16: torch.bfloat16,
    TensorProto.INT8: torch.int8,
    TensorProto.INT16: torch.int16,
    TensorProto.INT32: torch.int32,
    TensorProto.INT64: torch.int64,
    TensorProto.UINT8: torch.uint8,
    TensorProto.BOOL: torch.bool,
}


def _unary(function: Callable[[Tensor], Tensor]) -> Operator:
    return lambda spec, values: function(need(values))


def _binary(function: Callable[[Tensor, Tensor], Tensor]) -> Operator:
    return lambda spec, values: function(need(values), need(values, 1))


def _fold(function: Callable[[Tensor, Tensor], Tensor]) -> Operator:
    def run(_spec: Spec, values: Sequence[Value]) -> Tensor:
        made = need(values)
        for index in range(1, len(values)):
            made = function(made, need(values, index))
        return made

    return run


def _div(a: Tensor, b: Tensor) -> Tensor:
    return a / b if a.is_floating_point() else torch.div(a, b, rounding_mode="trunc")


def _mean(spec: Spec, values: Sequence[Value]) -> Tensor:
    total = _fold(torch.add)(spec, values)
    assert isinstance(total, Tensor)
    return total / len(values)


def _reduce(function: Callable[[Tensor, list[int], bool], Tensor]) -> Operator:
    def run(spec: Spec, values: Sequence[Value]) -> Tensor:
        x = need(values)
        axes = integers(spec, values, 1, "axes")
        if not axes:
            if spec.get("noop_with_empty_axes", 0):
                return x
            axes = list(range(x.dim()))
        return function(x, axes, bool(spec.get("keepdims", 1)))

    return run


def _prod(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    for axis in sorted((axis % x.dim() for axis in axes), reverse=True):
        x = x.prod(axis, keepdim=keep)
    return x


def _arg(function: Callable[..., Tensor]) -> Operator:
    def run(spec: Spec, values: Sequence[Value]) -> Tensor:
        if spec.get("select_last_index", 0):
            raise spec.refuse("select_last_index is not supported")
        return function(
            need(values), dim=spec.get("axis", 0), keepdim=bool(spec.get("keepdims", 1))
        )

    return run


def _softmax(function: Callable[..., Tensor]) -> Operator:
    def run(spec: Spec, values: Sequence[Value]) -> Tensor:
        x = need(values)
        if spec.opset >= 13:
            return function(x, dim=spec.get("axis", -1))
        axis = spec.get("axis", 1) % x.dim()  # older ones flatten everything from the axis on
        return function(x.flatten(axis), dim=-1).reshape(x.shape)

    return run


def _clip(spec: Spec, values: Sequence[Value]) -> Tensor:
    x = need(values)
    low, high = optional(values, 1), optional(values, 2)
    if low is None and "min" in spec.attributes:
        low = torch.tensor(spec.get("min"), dtype=x.dtype)
    if high is None and "max" in spec.attributes:
        high = torch.tensor(spec.get("max"), dtype=x.dtype)
    return x if low is None and high is None else torch.clamp(x, low, high)


def _cast(spec: Spec, values: Sequence[Value]) -> Tensor:
    if spec.get("to") not in _DTYPES:
        raise spec.refuse(f"no cast to {TensorProto.DataType.Name(spec.get('to'))}")
    return need(values).to(_DTYPES[spec.get("to")])


def _reshape(spec: Spec, values: Sequence[Value]) -> Tensor:
    x = need(values)
    shape = integers(spec, values, 1, "shape") or []
    if not spec.get("allowzero", 0):
        shape = [x.shape[axis] if size == 0 else size for axis, size in enumerate(shape)]
    return x.reshape(shape)


def _flatten(spec: Spec, values: Sequence[Value]) -> Tensor:
    x = need(values)
    axis = spec.get("axis", 1)
    axis += x.dim() if axis < 0 else 0
    return x.reshape(math.prod(x.shape[:axis]), -1)


def _squeeze(spec: Spec, values: Sequence[Value]) -> Tensor:
    x, axes = need(values), integers(spec, values, 1, "axes")
    return x.squeeze() if axes is None else x.squeeze(tuple(axes))


def _unsqueeze(spec: Spec, values: Sequence[Value]) -> Tensor:
    x, axes = need(values), integers(spec, values, 1, "axes") or []
    for axis in sorted(axis % (x.dim() + len(axes)) for axis in axes):
        x = x.unsqueeze(axis)
    return x


def _transpose(spec: Spec, values: Sequence[Value]) -> Tensor:
    x = need(values)
    return x.permute(spec.get("perm") or list(reversed(range(x.dim()))))


def _concat(spec: Spec, values: Sequence[Value]) -> Tensor:
    return torch.cat([need(values, i) for i in range(len(values))], dim=spec.get("axis", 1))


def _split(spec: Spec, values: Sequence[Value]) -> tuple[Tensor, ...]:
    x, axis = need(values), spec.get("axis", 0)
    sizes = integers(spec, values, 1, "split")
    if sizes is None:
        sizes = [-(-x.shape[axis] // spec.outputs)] * spec.outputs
        sizes[-1] = x.shape[axis] - sum(sizes[:-1])
    return tuple(torch.split(x, sizes, dim=axis))


def _slice(spec: Spec, values: Sequence[Value]) -> Tensor:
    x = need(values)
    starts = integers(spec, values, 1, "starts") or []
    ends = integers(spec, values, 2, "ends") or []
    axes = integers(spec, values, 3, "axes") or list(range(len(starts)))
    steps = integers(spec, values, 4, "steps") or [1] * len(starts)
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        places = range(x.shape[axis])[start:end:step]
        if step > 0:
            index = [slice(None)] * (axis % x.dim()) + [slice(places.start, places.stop, step)]
            x = x[tuple(index)]
        else:
            x = x.index_select(axis, torch.tensor(list(places), dtype=torch.int64))
    return x


def _gather(spec: Spec, values: Sequence[Value]) -> Tensor:
    x, index, axis = need(values), need(values, 1).long(), spec.get("axis", 0)
    axis %= x.dim()
    index = torch.where(index < 0, index + x.shape[axis], index)
    picked = x.index_select(axis, index.reshape(-1))
    return picked.reshape(*x.shape[:axis], *index.shape, *x.shape[axis + 1 :])


def _gather_elements(spec: Spec, values: Sequence[Value]) -> Tensor:
    x, index, axis = need(values), need(values, 1).long(), spec.get("axis", 0)
    return x.gather(axis, torch.where(index < 0, index + x.shape[axis], index))


def _expand(spec: Spec, values: Sequence[Value]) -> Tensor:
    x, shape = need(values), integers(spec, values, 1, "shape") or []
    return x.expand(torch.broadcast_shapes(x.shape, tuple(shape)))


def _constant_of_shape(spec: Spec, values: Sequence[Value]) -> Tensor:
    shape = [int(item) for item in need(values).tolist()]
    value = spec.get("value")
    return torch.zeros(shape) if value is None else value.reshape(()).expand(shape).clone()


def _constant(spec: Spec, _values: Sequence[Value]) -> Tensor:
    for name in ("value", "value_float", "value_floats", "value_int", "value_ints"):
        if name in spec.attributes:
            found = spec.get(name)
            return found if isinstance(found, Tensor) else torch.tensor(found)
    raise spec.refuse("only numbers are supported")


def _range(_spec: Spec, values: Sequence[Value]) -> Tensor:
    start, stop, step = (need(values, index) for index in range(3))
    return torch.arange(start.item(), stop.item(), step.item(), dtype=start.dtype)


def _global(function: Callable[[Tensor, list[int]], Tensor]) -> Operator:
    return lambda spec, values: function(need(values), list(range(2, need(values).dim())))


def _gemm(spec: Spec, values: Sequence[Value]) -> Tensor:
    a, b, c = need(values), need(values, 1), optional(values, 2)
    a = a.mT if spec.get("transA", 0) else a
    b = b.mT if spec.get("transB", 0) else b
    made = spec.get("alpha", 1.0) * (a @ b)
    return made if c is None else made + spec.get("beta", 1.0) * c


def _prelu(_spec: Spec, values: Sequence[Value]) -> Tensor:
    x, slope = need(values), need(values, 1)
    return torch.where(x < 0, x * slope, x)


def _gelu(spec: Spec, values: Sequence[Value]) -> Tensor:
    return F.gelu(need(values), approximate=spec.get("approximate", "none"))


OPERATORS: Mapping[str, Operator] = {
    **WINDOWED,
    "Abs": _unary(torch.abs),
    "Add": _binary(torch.add),
    "And": _binary(torch.logical_and),
    "ArgMax": _arg(torch.argmax),
    "ArgMin": _arg(torch.argmin),
    "Cast": _cast,
    "Ceil": _unary(torch.ceil),
    "Clip": _clip,
    "Concat": _concat,
    "Constant": _constant,
    "ConstantOfShape": _constant_of_shape,
    "Cos": _unary(torch.cos),
    "Div": _binary(_div),
    "Dropout": _unary(lambda x: x),
    "Elu": lambda spec, values: F.elu(need(values), spec.get("alpha", 1.0)),
    "Equal": _binary(torch.eq),
    "Erf": _unary(torch.erf),
    "Exp": _unary(torch.exp),
    "Expand": _expand,
    "Flatten": _flatten,
    "Floor": _unary(torch.floor),
    "Gather": _gather,
    "GatherElements": _gather_elements,
    "Gelu": _gelu,
    "Gemm": _gemm,
    "GlobalAveragePool": _global(lambda x, axes: x.mean(axes, keepdim=True)),
    "GlobalMaxPool": _global(lambda x, axes: x.amax(axes, keepdim=True)),
    "Greater": _binary(torch.gt),
    "GreaterOrEqual": _binary(torch.ge),
    "HardSigmoid": lambda spec, values: torch.clamp(
        need(values) * spec.get("alpha", 0.2) + spec.get("beta", 0.5), 0, 1
    ),
    "HardSwish": _unary(F.hardswish),
    "Identity": _unary(lambda x: x),
    "LeakyRelu": lambda spec, values: F.leaky_relu(need(values), spec.get("alpha", 0.01)),
    "Less": _binary(torch.lt),
    "LessOrEqual": _binary(torch.le),
    "Log": _unary(torch.log),
    "LogSoftmax": _softmax(F.log_softmax),
    "MatMul": _binary(torch.matmul),
    "Max": _fold(torch.maximum),
    "Mean": _mean,
    "Min": _fold(torch.minimum),
    "Mul": _binary(torch.mul),
    "Neg": _unary(torch.neg),
    "Not": _unary(torch.logical_not),
    "Or": _binary(torch.logical_or),
    "PRelu": _prelu,
    "Pow": _binary(lambda a, b: torch.pow(a, b.to(a.dtype))),
    "Range": _range,
    "Reciprocal": _unary(torch.reciprocal),
    "ReduceL1": _reduce(lambda x, axes, keep: x.abs().sum(axes, keepdim=keep)),
    "ReduceL2": _reduce(lambda x, axes, keep: x.square().sum(axes, keepdim=keep).sqrt()),
    "ReduceMax": _reduce(lambda x, axes, keep: x.amax(axes, keepdim=keep)),
    "ReduceMean": _reduce(lambda x, axes, keep: x.mean(axes, keepdim=keep)),
    "ReduceMin": _reduce(lambda x, axes, keep: x.amin(axes, keepdim=keep)),
    "ReduceProd": _reduce(_prod),
    "ReduceSum": _reduce(lambda x, axes, keep: x.sum(axes, keepdim=keep)),
    "ReduceSumSquare": _reduce(lambda x, axes, keep: x.square().sum(axes, keepdim=keep)),
    "Relu": _unary(F.relu),
    "Reshape": _reshape,
    "Selu": _unary(F.selu),
    "Shape": lambda spec, values: torch.tensor(
        list(need(values).shape)[slice(spec.get("start", 0), spec.get("end"))], dtype=torch.int64
    ),
    "Sigmoid": _unary(torch.sigmoid),
    "Sign": _unary(torch.sign),
    "Sin": _unary(torch.sin),
    "Slice": _slice,
    "Softmax": _softmax(F.softmax),
    "Softplus": _unary(F.softplus),
    "Softsign": _unary(F.softsign),
    "Split": _split,
    "Sqrt": _unary(torch.sqrt),
    "Squeeze": _squeeze,
    "Sub": _binary(torch.sub),
    "Sum": _fold(torch.add),
    "Tanh": _unary(torch.tanh),
    "Tile": lambda spec, values: need(values).repeat(*need(values, 1).tolist()),
    "Transpose": _transpose,
    "Unsqueeze": _unsqueeze,
    "Where": lambda spec, values: torch.where(
        need(values).bool(), need(values, 1), need(values, 2)
    ),
}
"""By operator name, in the standard domain."""
