"""ONNX operators that look at neighbours (convolution, pooling, resizing) and normalisations."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from mlflow_compress.techniques.training.spec import Operator, Spec, Value, integers, need, optional

__all__ = ["WINDOWED", "convolve", "padding"]


def _pad(spec: Spec, values: Sequence[Value]) -> Tensor:
    x, pads = need(values), integers(spec, values, 1, "pads") or []
    axes = integers(spec, values, 3, "axes") or list(range(x.dim()))
    mode = spec.get("mode", "constant")
    around = [(0, 0)] * x.dim()
    for place, axis in enumerate(axes):
        around[axis % x.dim()] = (pads[place], pads[place + len(axes)])
    flat = [size for pair in reversed(around) for size in pair]
    if mode == "constant":
        given = optional(values, 2)
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
    return convolve(spec, need(values), need(values, 1), optional(values, 2))


def _conv_transpose(spec: Spec, values: Sequence[Value]) -> Tensor:
    x, weight = need(values), need(values, 1)
    rank = weight.dim() - 2
    if spec.get("auto_pad", "NOTSET") != "NOTSET" or spec.get("output_shape"):
        raise spec.refuse("auto_pad and output_shape are not supported")
    around, strides, dilations = padding(spec, x.shape[2:], weight.shape[2:])
    if rank not in _TRANSPOSED or any(low != high for low, high in around):
        raise spec.refuse("only 1 to 3 dimensions and equal pads on both sides are supported")
    extra = list(spec.get("output_padding") or [0] * rank)
    return _TRANSPOSED[rank](
        x, weight, optional(values, 2), strides, [low for low, _ in around], extra,
        spec.get("group", 1), dilations,
    )  # fmt: skip


def _max_pool(spec: Spec, values: Sequence[Value]) -> Tensor:
    x, kernel = need(values), list(spec.get("kernel_shape"))
    if spec.outputs > 1 or len(kernel) not in _MAX_POOLS:
        raise spec.refuse("only one output and 1 to 3 dimensions are supported")
    around, strides, dilations = padding(spec, x.shape[2:], kernel)
    padded = _padded(x, around, -math.inf)
    made: Tensor = _MAX_POOLS[len(kernel)](
        padded, kernel, strides, 0, dilations, bool(spec.get("ceil_mode", 0))
    )
    return made


def _avg_pool(spec: Spec, values: Sequence[Value]) -> Tensor:
    x, kernel = need(values), list(spec.get("kernel_shape"))
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


def _batch_norm(spec: Spec, values: Sequence[Value]) -> Tensor:
    scale, bias, mean, variance = (need(values, index) for index in range(1, 5))
    return F.batch_norm(
        need(values), mean, variance, scale, bias, False, 0.0, spec.get("epsilon", 1e-5)
    )


def _layer_norm(spec: Spec, values: Sequence[Value]) -> Tensor:
    x, scale, bias = need(values), need(values, 1), optional(values, 2)
    if spec.outputs > 1:
        raise spec.refuse("only one output is supported")
    shape = x.shape[spec.get("axis", -1) % x.dim() :]
    made = F.layer_norm(x, shape, eps=spec.get("epsilon", 1e-5)) * scale
    return made if bias is None else made + bias


def _instance_norm(spec: Spec, values: Sequence[Value]) -> Tensor:
    x, scale, bias = need(values), need(values, 1), need(values, 2)
    return F.instance_norm(x, weight=scale, bias=bias, eps=spec.get("epsilon", 1e-5))


def _resize(spec: Spec, values: Sequence[Value]) -> Tensor:
    x, scales, sizes = need(values), optional(values, 2), optional(values, 3)
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


WINDOWED: Mapping[str, Operator] = {
    "AveragePool": _avg_pool,
    "BatchNormalization": _batch_norm,
    "Conv": _conv,
    "ConvTranspose": _conv_transpose,
    "InstanceNormalization": _instance_norm,
    "LayerNormalization": _layer_norm,
    "MaxPool": _max_pool,
    "Pad": _pad,
    "Resize": _resize,
}
"""By operator name, in the standard domain."""
