"""How channels pass through each ONNX operator; see :mod:`onnx_channels`."""

import math
from collections.abc import Sequence

import numpy as np
from onnx import NodeProto

from mlflow_compress.techniques.channels.shapes import flatten, reshape, resize
from mlflow_compress.techniques.channels.tracker import Axes, Handler, Made, Tracker
from mlflow_compress.techniques.graph.walk import attributes_of, node_label

__all__ = ["HANDLERS"]


def _conv(t: Tracker, node: NodeProto) -> Made:
    weight, numbers = node.input[1], t.values.get(node.input[0], {}).get(1)
    if weight not in t.held:
        return f"{node_label(node)} has a weight that is computed"
    t.freeze_value(node.input[0], f"{node_label(node)} slides along it", but=(1,))
    group, deconv = attributes_of(node).get("group", 1), node.op_type == "ConvTranspose"
    dims = t.held[weight].dims
    if group == 1:
        if numbers is not None:
            _read(t, node, 1, 0 if deconv else 1, numbers)
        made = _make(t, node, 1, 1 if deconv else 0)
    elif numbers is not None and group == len(numbers) and dims[1] == 1:
        made = np.repeat(numbers, 1 if deconv else dims[0] // group)
        t.claim(node, 1, 0, made)
        t.groups.append((node.output[0], numbers))
    else:
        t.freeze_value(node.input[0], f"{node_label(node)} reads it in {group} groups")
        return {}
    _bias(t, node, 2, made)
    return {node.output[0]: {1: made}}


def _gemm(t: Tracker, node: NodeProto) -> Made:
    attributes = attributes_of(node)
    if node.input[1] not in t.held or attributes.get("transA", 0):
        return f"{node_label(node)} is no plain layer"
    t.freeze_value(node.input[0], f"{node_label(node)} takes it as rows", but=(1,))
    numbers = t.values.get(node.input[0], {}).get(1)
    inputs = 1 if attributes.get("transB", 0) else 0
    if numbers is not None:
        _read(t, node, 1, inputs, numbers)
    made = _make(t, node, 1, 1 - inputs)
    _bias(t, node, 2, made)
    return {node.output[0]: {1: made}}


def _matmul(t: Tracker, node: NodeProto) -> Made:
    weight, rank = node.input[1], t.rank(node.input[0])
    if weight not in t.held or len(t.held[weight].dims) != 2 or not rank or rank < 2:
        return f"{node_label(node)} multiplies it with what is no weight of two axes"
    axes = dict(t.values.get(node.input[0], {}))
    numbers = axes.pop(rank - 1, None)
    if numbers is not None:
        _read(t, node, 1, 0, numbers)
    return {node.output[0]: axes | {rank - 1: _make(t, node, 1, 1)}}


def _recurrent(t: Tracker, node: NodeProto) -> Made:
    numbers = t.values.get(node.input[0], {}).get(2)
    if attributes_of(node).get("layout", 0) or node.input[1] not in t.held:
        return f"{node_label(node)} has the batch first, or a weight that is computed"
    for name in node.input:
        t.freeze_value(name, f"{node_label(node)} reads it", but=(2,) if name == node.input[0]
                       else ())  # fmt: skip
    if numbers is not None:
        _read(t, node, 1, 2, numbers)
    return {}


def _read(t: Tracker, node: NodeProto, index: int, axis: int, numbers: np.ndarray) -> None:
    if t.claim(node, index, axis, numbers):
        t.readers[node.input[index]] = axis
    else:
        t.freeze(numbers, f"{node_label(node)} has a weight of another size")


def _make(t: Tracker, node: NodeProto, index: int, axis: int) -> np.ndarray:
    weight = node.input[index]
    numbers = t.fresh(t.held[weight].dims[axis], weight)
    t.claim(node, index, axis, numbers)
    t.makers[weight] = axis
    return numbers


def _bias(t: Tracker, node: NodeProto, index: int, numbers: np.ndarray) -> None:
    name = node.input[index] if len(node.input) > index else ""
    if not name:
        return
    dims = t.held[name].dims if name in t.held else None
    if dims is None or not (math.prod(dims) == 1 or t.claim(node, index, len(dims) - 1, numbers)):
        t.freeze(numbers, f"{node_label(node)} has a bias that is not one value per output")
        t.freeze_value(name, f"{node_label(node)} adds it")


def _same(t: Tracker, node: NodeProto) -> Made:
    return {node.output[0]: dict(t.values.get(node.input[0], {}))}


def _pool(t: Tracker, node: NodeProto) -> Made:
    t.freeze_value(node.input[0], f"{node_label(node)} mixes along it", but=(0, 1))
    axes = {k: n for k, n in t.values.get(node.input[0], {}).items() if k < 2}
    return {node.output[0]: axes}


def _per_channel(t: Tracker, node: NodeProto) -> Made:
    if len([name for name in node.output if name]) > 1:
        return f"{node_label(node)} is in training mode"
    numbers = t.values.get(node.input[0], {}).get(1)
    if numbers is not None:
        for index in range(1, len(node.input)):
            if not t.claim(node, index, 0, numbers):
                return f"{node_label(node)} has a parameter that is computed"
    if node.op_type == "InstanceNormalization":
        t.freeze_value(node.input[0], f"{node_label(node)} mixes along it", but=(0, 1))
    return _same(t, node)


def _normalized(t: Tracker, node: NodeProto) -> Made:
    """Softmax and LayerNormalization: every axis passes but those they look along."""
    rank = t.rank(node.input[0])
    spread = node.op_type == "LayerNormalization" or t.version < 13
    axis = attributes_of(node).get("axis", 1 if t.version < 13 else -1)
    if rank is None:
        return f"{node_label(node)} has an input of unknown rank"
    axis %= rank
    reason = f"{node_label(node)} mixes along it"
    axes = {}
    for k, numbers in t.values.get(node.input[0], {}).items():
        if k == axis or (spread and k > axis):
            t.freeze(numbers, reason)
        else:
            axes[k] = numbers
    return {node.output[0]: axes}


def _broadcast(t: Tracker, node: NodeProto) -> Made:
    names = [name for name in node.input if name]
    if not any(name in t.values for name in names):
        return {}
    known = [t.rank(name) for name in names]
    ranks = [rank for rank in known if rank is not None]
    if len(ranks) < len(known):
        return f"{node_label(node)} has an input of unknown rank"
    axes: Axes = {}
    for axis in range(max(ranks)):
        here = [axis - max(ranks) + rank for rank in ranks]
        found = _meet(t, node, names, here)
        if isinstance(found, str):
            return found
        if found is not None:
            axes[axis] = found
    return {node.output[0]: axes}


def _meet(
    t: Tracker, node: NodeProto, names: Sequence[str], axes: Sequence[int]
) -> np.ndarray | str | None:
    """Join what several inputs have along the same axis of the output."""
    tracked = [t.values[n][a] for n, a in zip(names, axes, strict=True) if a in t.values.get(n, {})]
    if not tracked:
        return None
    first = max(tracked, key=len)
    for index, name in enumerate(node.input):
        axis = axes[names.index(name)] if name else -1
        if not name or axis < 0:
            continue
        numbers = t.values.get(name, {}).get(axis)
        if numbers is not None and len(numbers) == len(first):
            t.join(first, numbers)
        elif numbers is not None and len(numbers) == 1:
            t.freeze(numbers, f"{node_label(node)} spreads it")
        elif t.size(name, axis) != 1 and not t.claim(node, index, axis, first):
            return f"{node_label(node)} joins it with {name!r}, whose channels are not followed"
    return first


def _concat(t: Tracker, node: NodeProto) -> Made:
    names = list(node.input)
    if not any(name in t.values for name in names):
        return {}
    rank = next((rank for rank in map(t.rank, names) if rank is not None), None)
    if rank is None:
        return f"{node_label(node)} has inputs of unknown rank"
    along = attributes_of(node)["axis"] % rank
    axes: Axes = {}
    for axis in {k for name in names for k in t.values.get(name, {})}:
        parts = []
        for index, name in enumerate(names):
            numbers = t.values.get(name, {}).get(axis)
            size = t.size(name, axis) if numbers is None and t.rank(name) else None
            if numbers is None and axis == along and isinstance(size, int):
                numbers = t.fresh(size)
                t.freeze(numbers, f"{node_label(node)} joins them with what is not followed")
                if name in t.held:
                    t.claim(node, index, axis, numbers)
            if numbers is None:
                return f"{node_label(node)} joins it with {name!r}, which is not followed"
            parts.append(numbers)
        if axis != along:
            for part in parts[1:]:
                t.join(parts[0], part)
        axes[axis] = np.concatenate(parts) if axis == along else parts[0]
    return {node.output[0]: axes}


def _split(t: Tracker, node: NodeProto) -> Made:
    axes, rank = t.values.get(node.input[0], {}), t.rank(node.input[0])
    if not axes or rank is None:
        return f"{node_label(node)} has an input of unknown rank"
    along = attributes_of(node).get("axis", 0) % rank
    made: dict[str, Axes] = {
        name: {k: n for k, n in axes.items() if k != along} for name in node.output
    }
    if along in axes:
        sizes = t.constant(node.input[1]) if len(node.input) > 1 else None
        if sizes is None:
            return f"{node_label(node)} splits it, and its sizes are no constants"
        parts = np.split(axes[along], np.cumsum(sizes)[:-1])
        for place, (name, part) in enumerate(zip(node.output, parts, strict=True)):
            made[name][along] = part
            t.lengths.setdefault(node.input[1], {})[place] = part
    return made


def _transpose(t: Tracker, node: NodeProto) -> Made:
    rank = t.rank(node.input[0])
    if rank is None:
        return f"{node_label(node)} has an input of unknown rank"
    order = list(attributes_of(node).get("perm", range(rank)[::-1]))
    axes = t.values.get(node.input[0], {})
    return {node.output[0]: {order.index(k): n for k, n in axes.items()}}


def _axes_of(t: Tracker, node: NodeProto, index: int = 1) -> list[int] | None:
    """Return the axes that a node names, in an attribute or in an input that is constant."""
    listed = attributes_of(node).get("axes")
    if listed is None and len(node.input) > index and node.input[index]:
        constant = t.constant(node.input[index])
        listed = None if constant is None else constant.ravel().tolist()
    return None if listed is None else [int(axis) for axis in listed]


def _reduce(t: Tracker, node: NodeProto) -> Made:
    axes, rank, listed = t.values.get(node.input[0], {}), t.rank(node.input[0]), _axes_of(t, node)
    keep = attributes_of(node).get("keepdims", 1) and node.op_type != "Squeeze"
    if rank is None or listed is None:
        return f"{node_label(node)} reduces axes that are not known"
    gone = {axis % rank for axis in listed}
    made: Axes = {}
    for k, numbers in axes.items():
        if k in gone:
            t.freeze(numbers, f"{node_label(node)} mixes along it")
        else:
            made[k if keep else k - sum(axis < k for axis in gone)] = numbers
    return {node.output[0]: made}


def _unsqueeze(t: Tracker, node: NodeProto) -> Made:
    rank, listed = t.rank(node.input[0]), _axes_of(t, node)
    if rank is None or listed is None:
        return f"{node_label(node)} adds axes that are not known"
    total = rank + len(listed)
    new = {axis % total for axis in listed}
    places = [axis for axis in range(total) if axis not in new]
    return {node.output[0]: {places[k]: n for k, n in t.values.get(node.input[0], {}).items()}}


def _slice(t: Tracker, node: NodeProto) -> Made:
    rank = t.rank(node.input[0])
    if rank is None or len(node.input) < 3:
        return f"{node_label(node)} cuts axes that are not known"
    listed = _axes_of(t, node, 3)
    if listed is None:
        return f"{node_label(node)} cuts axes that are not known"
    t.freeze_value(
        node.input[0],
        f"{node_label(node)} cuts it",
        but=[k for k in range(rank) if k not in {axis % rank for axis in listed}],
    )
    axes = t.values.get(node.input[0], {})
    cut = {axis % rank for axis in listed}
    return {node.output[0]: {k: n for k, n in axes.items() if k not in cut}}


def _pad(t: Tracker, node: NodeProto) -> Made:
    axes, rank = t.values.get(node.input[0], {}), t.rank(node.input[0])
    pads = t.constant(node.input[1]) if len(node.input) > 1 else None
    if rank is None or pads is None or (len(node.input) > 3 and node.input[3]):
        return f"{node_label(node)} pads by what is not known"
    for axis, numbers in axes.items():
        if pads[axis] or pads[axis + rank]:
            t.freeze(numbers, f"{node_label(node)} pads along it")
    return {node.output[0]: {k: n for k, n in axes.items() if not (pads[k] or pads[k + rank])}}


def _gather(t: Tracker, node: NodeProto) -> Made:
    rank, indices = t.rank(node.input[0]), t.rank(node.input[1])
    if rank is None or indices is None or node.input[1] in t.values:
        return f"{node_label(node)} has inputs of unknown rank"
    along = attributes_of(node).get("axis", 0) % rank
    axes = dict(t.values.get(node.input[0], {}))
    if along in axes:
        t.freeze(axes.pop(along), f"{node_label(node)} picks from it")
    return {node.output[0]: {k if k < along else k + indices - 1: n for k, n in axes.items()}}


def _numbers_only(_t: Tracker, _node: NodeProto) -> Made:
    return {}


_SAME = (
    "Abs", "BitwiseNot", "Cast", "Ceil", "Celu", "Clip", "Cos", "Dropout", "Elu", "Erf", "Exp",
    "Floor", "Gelu", "HardSigmoid", "HardSwish", "Identity", "IsInf", "IsNaN", "LeakyRelu",
    "Log", "Mish", "Neg", "Not", "Reciprocal", "Relu", "Round", "Selu", "Shrink", "Sigmoid",
    "Sign", "Sin", "Softplus", "Softsign", "Sqrt", "Swish", "Tan", "Tanh", "ThresholdedRelu",
)  # fmt: skip
_BROADCAST = (
    "Add", "And", "Div", "Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Max",
    "Mean", "Min", "Mod", "Mul", "Or", "PRelu", "Pow", "Sub", "Sum", "Where", "Xor",
)  # fmt: skip
_POOLS = (
    "AveragePool", "GlobalAveragePool", "GlobalLpPool", "GlobalMaxPool", "LpPool", "MaxPool",
)  # fmt: skip
_REDUCTIONS = (
    "ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMax", "ReduceMean",
    "ReduceMin", "ReduceProd", "ReduceSum", "ReduceSumSquare", "Squeeze",
)  # fmt: skip

HANDLERS: dict[str, Handler] = {
    "BatchNormalization": _per_channel,
    "Concat": _concat,
    "Conv": _conv,
    "ConvTranspose": _conv,
    "Flatten": flatten,
    "GRU": _recurrent,
    "Gather": _gather,
    "Gemm": _gemm,
    "InstanceNormalization": _per_channel,
    "LSTM": _recurrent,
    "LayerNormalization": _normalized,
    "LogSoftmax": _normalized,
    "MatMul": _matmul,
    "Pad": _pad,
    "RNN": _recurrent,
    "Reshape": reshape,
    "Resize": resize,
    "Shape": _numbers_only,
    "Slice": _slice,
    "Softmax": _normalized,
    "Split": _split,
    "Transpose": _transpose,
    "Unsqueeze": _unsqueeze,
    "Upsample": resize,
    **dict.fromkeys(_SAME, _same),
    **dict.fromkeys(_BROADCAST, _broadcast),
    **dict.fromkeys(_POOLS, _pool),
    **dict.fromkeys(_REDUCTIONS, _reduce),
}
"""What to do at each operator; at others the channels of the inputs all stay."""
