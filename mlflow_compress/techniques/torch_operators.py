"""ONNX operators as PyTorch functions, for :mod:`~mlflow_compress.techniques.torch_interpreter`.

A function takes the operator's inputs (None where an optional one is left out) and a
:class:`Spec` with its attributes, and returns one tensor, or a tuple for several outputs.
Arguments that ONNX moved from attributes to inputs over the years are taken from either.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
import torch.nn.functional as F
from onnx import TensorProto
from torch import Tensor

from mlflow_compress.errors import TechniqueError

__all__ = ["OPERATORS", "Spec", "convolve", "padding"]

Value: TypeAlias = Tensor | None
Outputs: TypeAlias = Tensor | tuple[Tensor, ...]


@dataclass(frozen=True)
class Spec:
    """What a node says about itself.

    Attributes:
        label: the node, for messages.
        attributes: its attributes as Python values.
        opset: version of the standard operators.
        outputs: how many outputs it has.
    """

    label: str
    attributes: Mapping[str, Any]
    opset: int
    outputs: int = 1

    def get(self, name: str, default: Any = None) -> Any:
        """Return an attribute; texts as str."""
        value = self.attributes.get(name, default)
        return value.decode() if isinstance(value, bytes) else value

    def refuse(self, reason: str) -> TechniqueError:
        """Return the error that says why this node cannot be trained through."""
        return TechniqueError(f"{self.label}: {reason}")


Operator = Callable[[Spec, Sequence[Value]], Outputs]

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


def _input(values: Sequence[Value], index: int) -> Value:
    return values[index] if index < len(values) else None


def _need(values: Sequence[Value], index: int = 0) -> Tensor:
    value = values[index]
    if value is None:
        raise TechniqueError(f"input {index} is missing")
    return value


def _ints(spec: Spec, values: Sequence[Value], index: int, name: str) -> list[int] | None:
    """An argument that is an input in newer operators and an attribute in older ones."""
    value = _input(values, index)
    if value is not None:
        return [int(item) for item in value.reshape(-1).tolist()]
    found = spec.get(name)
    return None if found is None else [int(item) for item in found]


def _unary(function: Callable[[Tensor], Tensor]) -> Operator:
    return lambda spec, values: function(_need(values))


def _binary(function: Callable[[Tensor, Tensor], Tensor]) -> Operator:
    return lambda spec, values: function(_need(values), _need(values, 1))


def _fold(function: Callable[[Tensor, Tensor], Tensor]) -> Operator:
    def run(spec: Spec, values: Sequence[Value]) -> Tensor:
        made = _need(values)
        for index in range(1, len(values)):
            made = function(made, _need(values, index))
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
        x = _need(values)
        axes = _ints(spec, values, 1, "axes")
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
            _need(values), dim=spec.get("axis", 0), keepdim=bool(spec.get("keepdims", 1))
        )

    return run


def _softmax(function: Callable[..., Tensor]) -> Operator:
    def run(spec: Spec, values: Sequence[Value]) -> Tensor:
        x = _need(values)
        if spec.opset >= 13:
            return function(x, dim=spec.get("axis", -1))
        axis = spec.get("axis", 1) % x.dim()  # older ones flatten everything from the axis on
        return function(x.flatten(axis), dim=-1).reshape(x.shape)

    return run


def _clip(spec: Spec, values: Sequence[Value]) -> Tensor:
    x = _need(values)
    low, high = _input(values, 1), _input(values, 2)
    if low is None and "min" in spec.attributes:
        low = torch.tensor(spec.get("min"), dtype=x.dtype)
    if high is None and "max" in spec.attributes:
        high = torch.tensor(spec.get("max"), dtype=x.dtype)
    return x if low is None and high is None else torch.clamp(x, low, high)


def _cast(spec: Spec, values: Sequence[Value]) -> Tensor:
    if spec.get("to") not in _DTYPES:
        raise spec.refuse(f"no cast to {TensorProto.DataType.Name(spec.get('to'))}")
    return _need(values).to(_DTYPES[spec.get("to")])


def _reshape(spec: Spec, values: Sequence[Value]) -> Tensor:
    x = _need(values)
    shape = _ints(spec, values, 1, "shape") or []
    if not spec.get("allowzero", 0):
        shape = [x.shape[axis] if size == 0 else size for axis, size in enumerate(shape)]
    return x.reshape(shape)


def _flatten(spec: Spec, values: Sequence[Value]) -> Tensor:
    x = _need(values)
    axis = spec.get("axis", 1)
    axis += x.dim() if axis < 0 else 0
    return x.reshape(math.prod(x.shape[:axis]), -1)


def _squeeze(spec: Spec, values: Sequence[Value]) -> Tensor:
    x, axes = _need(values), _ints(spec, values, 1, "axes")
    return x.squeeze() if axes is None else x.squeeze(tuple(axes))


def _unsqueeze(spec: Spec, values: Sequence[Value]) -> Tensor:
    x, axes = _need(values), _ints(spec, values, 1, "axes") or []
    for axis in sorted(axis % (x.dim() + len(axes)) for axis in axes):
        x = x.unsqueeze(axis)
    return x


def _transpose(spec: Spec, values: Sequence[Value]) -> Tensor:
    x = _need(values)
    return x.permute(spec.get("perm") or list(reversed(range(x.dim()))))


def _concat(spec: Spec, values: Sequence[Value]) -> Tensor:
    return torch.cat([_need(values, i) for i in range(len(values))], dim=spec.get("axis", 1))


def _split(spec: Spec, values: Sequence[Value]) -> tuple[Tensor, ...]:
    x, axis = _need(values), spec.get("axis", 0)
    sizes = _ints(spec, values, 1, "split")
    if sizes is None:
        sizes = [-(-x.shape[axis] // spec.outputs)] * spec.outputs
        sizes[-1] = x.shape[axis] - sum(sizes[:-1])
    return tuple(torch.split(x, sizes, dim=axis))


def _slice(spec: Spec, values: Sequence[Value]) -> Tensor:
    x = _need(values)
    starts, ends = _ints(spec, values, 1, "starts") or [], _ints(spec, values, 2, "ends") or []
    axes = _ints(spec, values, 3, "axes") or list(range(len(starts)))
    steps = _ints(spec, values, 4, "steps") or [1] * len(starts)
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        places = range(x.shape[axis])[start:end:step]
        if step > 0:
            index = [slice(None)] * (axis % x.dim()) + [slice(places.start, places.stop, step)]
            x = x[tuple(index)]
        else:
            x = x.index_select(axis, torch.tensor(list(places), dtype=torch.int64))
    return x


def _gather(spec: Spec, values: Sequence[Value]) -> Tensor:
    x, index, axis = _need(values), _need(values, 1).long(), spec.get("axis", 0)
    axis %= x.dim()
    index = torch.where(index < 0, index + x.shape[axis], index)
    picked = x.index_select(axis, index.reshape(-1))
    return picked.reshape(*x.shape[:axis], *index.shape, *x.shape[axis + 1 :])


def _gather_elements(spec: Spec, values: Sequence[Value]) -> Tensor:
    x, index, axis = _need(values), _need(values, 1).long(), spec.get("axis", 0)
    return x.gather(axis, torch.where(index < 0, index + x.shape[axis], index))


def _expand(spec: Spec, values: Sequence[Value]) -> Tensor:
    x, shape = _need(values), _ints(spec, values, 1, "shape") or []
    return x.expand(torch.broadcast_shapes(x.shape, tuple(shape)))


def _constant_of_shape(spec: Spec, values: Sequence[Value]) -> Tensor:
    shape = [int(item) for item in _need(values).tolist()]
    value = spec.get("value")
    return torch.zeros(shape) if value is None else value.reshape(()).expand(shape).clone()


def _constant(spec: Spec, values: Sequence[Value]) -> Tensor:
    for name in ("value", "value_float", "value_floats", "value_int", "value_ints"):
        if name in spec.attributes:
            found = spec.get(name)
            return found if isinstance(found, Tensor) else torch.tensor(found)
    raise spec.refuse("only numbers are supported")


def _range(spec: Spec, values: Sequence[Value]) -> Tensor:
    start, stop, step = (_need(values, index) for index in range(3))
    return torch.arange(start.item(), stop.item(), step.item(), dtype=start.dtype)


def _pad(spec: Spec, values: Sequence[Value]) -> Tensor:
    x, pads = _need(values), _ints(spec, values, 1, "pads") or []
    axes = _ints(spec, values, 3, "axes") or list(range(x.dim()))
    mode = spec.get("mode", "constant")
    around = [(0, 0)] * x.dim()
    for place, axis in enumerate(axes):
        around[axis % x.dim()] = (pads[place], pads[place + len(axes)])
    flat = [size for pair in reversed(around) for size in pair]
    if mode == "constant":
        given = _input(values, 2)
        value = spec.get("value", 0.0) if given is None else given.item()
        return F.pad(x, flat, value=value)
    names = {"reflect": "reflect", "edge": "replicate", "wrap": "circular"}
    while len(flat) > 2 and flat[-2:] == [0, 0] and len(flat) // 2 > x.dim() - 2:
        flat = flat[:-2]
    if mode not in names or len(flat) // 2 > x.dim() - 2:
        raise spec.refuse(f"padding mode {mode!r} on these axes is not supported")
    return F.pad(x, flat, mode=names[mode])


def padding(
    spec: Spec, size: Sequence[int], kernel: Sequence[int]
) -> tuple[list[tuple[int, int]], list[int], list[int]]:
    """Return what a convolution or pooling adds before and after each axis, strides, dilations."""
    rank = len(kernel)
    strides = list(spec.get("strides") or [1] * rank)
    dilations = list(spec.get("dilations") or [1] * rank)
    auto = spec.get("auto_pad", "NOTSET")
    if auto == "NOTSET":
        pads = spec.get("pads") or [0] * (2 * rank)
        return list(zip(pads[:rank], pads[rank:], strict=True)), strides, dilations
    if auto == "VALID":
        return [(0, 0)] * rank, strides, dilations
    around = []
    for n, k, s, d in zip(size, kernel, strides, dilations, strict=True):
        total = max(0, (-(-n // s) - 1) * s + (k - 1) * d + 1 - n)
        small, large = total // 2, total - total // 2
        around.append((small, large) if auto == "SAME_UPPER" else (large, small))
    return around, strides, dilations


def _padded(x: Tensor, around: Sequence[tuple[int, int]], value: float = 0.0) -> Tensor:
    flat = [size for pair in reversed(around) for size in pair]
    return F.pad(x, flat, value=value) if any(flat) else x


_CONVS = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
_TRANSPOSED = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}
_MAX_POOLS = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}
_AVG_POOLS: dict[int, Any] = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}


def convolve(spec: Spec, x: Tensor, weight: Tensor, bias: Value) -> Tensor:
    """Convolve as the node says: 1 to 3 dimensions, any padding, groups."""
    rank = weight.dim() - 2
    if rank not in _CONVS:
        raise spec.refuse(f"convolutions of {rank} dimensions are not supported")
    around, strides, dilations = padding(spec, x.shape[2:], weight.shape[2:])
    return _CONVS[rank](
        _padded(x, around), weight, bias, strides, 0, dilations, spec.get("group", 1)
    )


def _conv(spec: Spec, values: Sequence[Value]) -> Tensor:
    return convolve(spec, _need(values), _need(values, 1), _input(values, 2))


def _conv_transpose(spec: Spec, values: Sequence[Value]) -> Tensor:
    x, weight = _need(values), _need(values, 1)
    rank = weight.dim() - 2
    if spec.get("auto_pad", "NOTSET") != "NOTSET" or spec.get("output_shape"):
        raise spec.refuse("auto_pad and output_shape are not supported")
    around, strides, dilations = padding(spec, x.shape[2:], weight.shape[2:])
    if rank not in _TRANSPOSED or any(low != high for low, high in around):
        raise spec.refuse("only 1 to 3 dimensions and equal pads on both sides are supported")
    extra = list(spec.get("output_padding") or [0] * rank)
    return _TRANSPOSED[rank](
        x, weight, _input(values, 2), strides, [low for low, _ in around], extra,
        spec.get("group", 1), dilations,
    )  # fmt: skip


def _max_pool(spec: Spec, values: Sequence[Value]) -> Tensor:
    x, kernel = _need(values), list(spec.get("kernel_shape"))
    if spec.outputs > 1 or len(kernel) not in _MAX_POOLS:
        raise spec.refuse("only one output and 1 to 3 dimensions are supported")
    around, strides, dilations = padding(spec, x.shape[2:], kernel)
    padded = _padded(x, around, -math.inf)
    made: Tensor = _MAX_POOLS[len(kernel)](
        padded, kernel, strides, 0, dilations, bool(spec.get("ceil_mode", 0))
    )
    return made


def _avg_pool(spec: Spec, values: Sequence[Value]) -> Tensor:
    x, kernel = _need(values), list(spec.get("kernel_shape"))
    around, strides, dilations = padding(spec, x.shape[2:], kernel)
    include, ceil = bool(spec.get("count_include_pad", 0)), bool(spec.get("ceil_mode", 0))
    if len(kernel) not in _AVG_POOLS or any(d != 1 for d in dilations):
        raise spec.refuse("dilations and more than 3 dimensions are not supported")
    pads = [low for low, _ in around]
    if any(low != high for low, high in around):
        if not include:
            raise spec.refuse("unequal pads that are not counted are not supported")
        x, pads = _padded(x, around), [0] * len(kernel)
    made: Tensor = _AVG_POOLS[len(kernel)](x, kernel, strides, pads, ceil, include)
    return made


def _global(function: Callable[[Tensor, list[int]], Tensor]) -> Operator:
    return lambda spec, values: function(_need(values), list(range(2, _need(values).dim())))


def _gemm(spec: Spec, values: Sequence[Value]) -> Tensor:
    a, b, c = _need(values), _need(values, 1), _input(values, 2)
    a = a.mT if spec.get("transA", 0) else a
    b = b.mT if spec.get("transB", 0) else b
    made = spec.get("alpha", 1.0) * (a @ b)
    return made if c is None else made + spec.get("beta", 1.0) * c


def _batch_norm(spec: Spec, values: Sequence[Value]) -> Tensor:
    scale, bias, mean, variance = (_need(values, index) for index in range(1, 5))
    return F.batch_norm(
        _need(values), mean, variance, scale, bias, False, 0.0, spec.get("epsilon", 1e-5)
    )


def _layer_norm(spec: Spec, values: Sequence[Value]) -> Tensor:
    x, scale, bias = _need(values), _need(values, 1), _input(values, 2)
    if spec.outputs > 1:
        raise spec.refuse("only one output is supported")
    shape = x.shape[spec.get("axis", -1) % x.dim() :]
    made = F.layer_norm(x, shape, eps=spec.get("epsilon", 1e-5)) * scale
    return made if bias is None else made + bias


def _instance_norm(spec: Spec, values: Sequence[Value]) -> Tensor:
    x, scale, bias = _need(values), _need(values, 1), _need(values, 2)
    return F.instance_norm(x, weight=scale, bias=bias, eps=spec.get("epsilon", 1e-5))


def _prelu(spec: Spec, values: Sequence[Value]) -> Tensor:
    x, slope = _need(values), _need(values, 1)
    return torch.where(x < 0, x * slope, x)


def _gelu(spec: Spec, values: Sequence[Value]) -> Tensor:
    return F.gelu(_need(values), approximate=spec.get("approximate", "none"))


def _resize(spec: Spec, values: Sequence[Value]) -> Tensor:
    x, scales, sizes = _need(values), _input(values, 2), _input(values, 3)
    mode = spec.get("mode", "nearest")
    size, axes = list(x.shape), [axis % x.dim() for axis in spec.get("axes", range(x.dim()))]
    if sizes is not None and sizes.numel():
        for axis, item in zip(axes, sizes.tolist(), strict=True):
            size[axis] = int(item)
    elif scales is not None and scales.numel():
        for axis, scale in zip(axes, scales.tolist(), strict=True):
            size[axis] = math.floor(size[axis] * scale)
    else:
        raise spec.refuse("neither sizes nor scales are given")
    whole = all(new % old == 0 for new, old in zip(size, x.shape, strict=True))
    how = spec.get("coordinate_transformation_mode", "half_pixel")
    if list(x.shape[:2]) != size[:2]:
        raise spec.refuse("only the axes after the second can be resized")
    if mode == "nearest" and whole:
        return F.interpolate(x, size[2:], mode="nearest")
    if mode == "linear" and x.dim() == 4 and how in ("half_pixel", "align_corners"):
        corners = how == "align_corners"
        return F.interpolate(x, size[2:], mode="bilinear", align_corners=corners)
    raise spec.refuse(f"resizing by mode {mode!r} with {how!r} is not supported")


OPERATORS: Mapping[str, Operator] = {
    "Abs": _unary(torch.abs),
    "Add": _binary(torch.add),
    "And": _binary(torch.logical_and),
    "ArgMax": _arg(torch.argmax),
    "ArgMin": _arg(torch.argmin),
    "AveragePool": _avg_pool,
    "BatchNormalization": _batch_norm,
    "Cast": _cast,
    "Ceil": _unary(torch.ceil),
    "Clip": _clip,
    "Concat": _concat,
    "Constant": _constant,
    "ConstantOfShape": _constant_of_shape,
    "Conv": _conv,
    "ConvTranspose": _conv_transpose,
    "Cos": _unary(torch.cos),
    "Div": _binary(_div),
    "Dropout": _unary(lambda x: x),
    "Elu": lambda spec, values: F.elu(_need(values), spec.get("alpha", 1.0)),
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
        _need(values) * spec.get("alpha", 0.2) + spec.get("beta", 0.5), 0, 1
    ),
    "HardSwish": _unary(F.hardswish),
    "Identity": _unary(lambda x: x),
    "InstanceNormalization": _instance_norm,
    "LayerNormalization": _layer_norm,
    "LeakyRelu": lambda spec, values: F.leaky_relu(_need(values), spec.get("alpha", 0.01)),
    "Less": _binary(torch.lt),
    "LessOrEqual": _binary(torch.le),
    "Log": _unary(torch.log),
    "LogSoftmax": _softmax(F.log_softmax),
    "MatMul": _binary(torch.matmul),
    "Max": _fold(torch.maximum),
    "MaxPool": _max_pool,
    "Mean": _mean,
    "Min": _fold(torch.minimum),
    "Mul": _binary(torch.mul),
    "Neg": _unary(torch.neg),
    "Not": _unary(torch.logical_not),
    "Or": _binary(torch.logical_or),
    "PRelu": _prelu,
    "Pad": _pad,
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
    "Resize": _resize,
    "Selu": _unary(F.selu),
    "Shape": lambda spec, values: torch.tensor(
        list(_need(values).shape)[slice(spec.get("start", 0), spec.get("end"))], dtype=torch.int64
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
    "Tile": lambda spec, values: _need(values).repeat(*_need(values, 1).tolist()),
    "Transpose": _transpose,
    "Unsqueeze": _unsqueeze,
    "Where": lambda spec, values: torch.where(
        _need(values).bool(), _need(values, 1), _need(values, 2)
    ),
}
"""By operator name, in the standard domain."""
