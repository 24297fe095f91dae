"""How channels pass through ONNX operators that change shapes; see :mod:`onnx_channels`."""

import math
from collections.abc import Sequence

import numpy as np
from onnx import NodeProto

from mlflow_compress.techniques.channels.tracker import Axes, Made, Tracker
from mlflow_compress.techniques.graph.walk import attributes_of, node_label

__all__ = ["flatten", "reshape", "resize"]

Dim = int | str | None


def resize(t: Tracker, node: NodeProto) -> Made:
    """Resize and Upsample: pass along axes that keep their length."""
    axes = t.values.get(node.input[0], {})
    inputs = [*node.input, *[""] * 4]
    scales = inputs[1] if node.op_type == "Upsample" else inputs[2]
    factors = t.constant(scales) if scales else None
    sizes = _entries(t, inputs[3]) if inputs[3] else None
    if attributes_of(node).get("axes") is not None:
        return f"{node_label(node)} names its axes"
    for axis, numbers in axes.items():
        if factors is not None and factors.size > axis and factors.ravel()[axis] == 1:
            continue
        if sizes is None or len(sizes) <= axis:
            return f"{node_label(node)} resizes by what is not known"
        _count(t, sizes[axis], numbers)
    return {node.output[0]: dict(axes)}


Entry = tuple[int | None, str, int]
"""A number in a shape: its value when it is constant, and where it is stored."""


def _entries(t: Tracker, name: str) -> list[Entry] | None:
    """Return the numbers of a shape that is constant, or put together from parts."""
    constant = t.constant(name)
    if constant is not None:
        return [(int(value), name, place) for place, value in enumerate(constant.ravel())]
    maker = t.made_by.get(name)
    if maker is not None and maker.op_type == "Concat":
        parts = [_entries(t, part) for part in maker.input]
        return None if None in parts else [entry for part in parts for entry in part or ()]
    size = t.size(name, 0) if t.rank(name) == 1 else None
    return [(None, "", 0)] * size if isinstance(size, int) else None


def _count(t: Tracker, entry: Entry, numbers: np.ndarray) -> None:
    """Note that a number in a shape counts these channels."""
    value, name, place = entry
    if value is not None and value > 0:
        t.lengths.setdefault(name, {})[place] = numbers


def flatten(t: Tracker, node: NodeProto) -> Made:
    """Flatten: each channel takes as many positions as it had places."""
    shape = t.shapes.get(node.input[0])
    if shape is None:
        return f"{node_label(node)} has an input of unknown shape"
    at = attributes_of(node).get("axis", 1) % (len(shape) + 1)
    made: Axes = {}
    for k in t.values.get(node.input[0], {}):
        group = range(at) if k < at else range(at, len(shape))
        numbers = _merged(t, node.input[0], shape, group)
        if numbers is None:
            return f"{node_label(node)} flattens axes whose lengths are not known"
        made[0 if k < at else 1] = numbers
    return {node.output[0]: made}


def reshape(t: Tracker, node: NodeProto) -> Made:
    """Reshape: follow channels whose axis is kept, or merged with others."""
    source, entries = t.shapes.get(node.input[0]), _entries(t, node.input[1])
    axes = t.values.get(node.input[0], {})
    if not axes:
        return {}
    if source is None or entries is None:
        return f"{node_label(node)} has a shape that is not known"
    target = _target(source, entries, t.shapes.get(node.output[0]))
    pairs = _aligned(source, target)
    made: Axes = {}
    for ins, outs in pairs or ():
        if not any(k in axes for k in ins):
            continue
        long = [j for j in outs if target[j] != 1] or outs[:1]
        numbers = _merged(t, node.input[0], source, ins)
        if numbers is None or len(long) != 1:
            return f"{node_label(node)} splits its channels or mixes them with other axes"
        made[long[0]] = numbers
        _count(t, entries[long[0]], numbers)
    if pairs is None:
        return f"{node_label(node)} mixes axes whose lengths are not known"
    return {node.output[0]: made}


def _target(
    source: Sequence[Dim], entries: Sequence[Entry], inferred: Sequence[Dim] | None
) -> list[Dim]:
    """Return a Reshape's result as far as it can be told; what is not is taken for the batch.

    A wrong guess makes a model that gives other outputs than it should, which is checked.
    """
    if inferred is not None and len(inferred) == len(entries):
        target = list(inferred)
    else:
        target = [value if value is not None and value > 0 else None for value, _, _ in entries]
    for j, (value, _, _) in enumerate(entries):
        if target[j] is None and value == 0 and j < len(source):
            target[j] = source[j]
    open_places = [j for j, dim in enumerate(target) if not isinstance(dim, int)]
    loose = [dim for dim in source if not isinstance(dim, int)]
    if len(loose) == 1 and len(open_places) == 2 and entries[open_places[1]][0] == -1:
        target[open_places[0]] = loose[0]
        rest = math.prod(dim for dim in target if isinstance(dim, int))
        target[open_places[1]] = math.prod(d for d in source if isinstance(d, int)) // rest
    elif len(loose) == 1 and len(open_places) == 1:
        target[open_places[0]] = loose[0]
    return target


def _aligned(source: Sequence[Dim], target: Sequence[Dim]) -> list[tuple[range, range]] | None:
    """Pair axes, or runs of axes, that hold the same number of elements; None if unknown."""
    pairs = []
    i = j = 0
    while i < len(source) and j < len(target):
        begin = (i, j)
        one, two = source[i], target[j]
        i, j = i + 1, j + 1
        while one != two:
            if not isinstance(one, int) or not isinstance(two, int):
                return None
            if one < two and i < len(source):
                more, i = source[i], i + 1
                one = one * more if isinstance(more, int) else None
            elif two < one and j < len(target):
                more, j = target[j], j + 1
                two = two * more if isinstance(more, int) else None
            else:
                return None
        pairs.append((range(begin[0], i), range(begin[1], j)))
    if any(dim != 1 for dim in (*source[i:], *target[j:])):
        return None
    return pairs


def _merged(t: Tracker, name: str, shape: Sequence[Dim], group: Sequence[int]) -> np.ndarray | None:
    """Return the channels of each position when axes become one; None when not known."""
    axes = t.values[name]
    (k, *others) = [axis for axis in group if axis in axes]
    rest = [shape[axis] for axis in group if axis != k]
    if others or not all(isinstance(dim, int) for dim in rest):
        return None
    outer = math.prod(int(shape[axis] or 0) for axis in group if axis < k)
    inner = math.prod(int(shape[axis] or 0) for axis in group if axis > k)
    return np.tile(np.repeat(axes[k], inner), outer)
