"""Which channels of a graph hang together, and what has to go when one of them goes.

Every channel that a layer makes gets a number. The numbers are followed through the graph along
the axis they lie on, into the initializers whose rows or columns belong to them; where two values
meet (a residual sum, say), their channels become one. A channel that meets something this module
does not understand is frozen, with the reason. The dependency graph of Fang et al., "DepGraph:
Towards Any Structural Pruning", 2023, section 3, per channel instead of per layer.
"""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, numpy_helper

from mlflow_compress.techniques.graph.walk import (
    inferred,
    initializers,
    node_label,
    opset,
    subgraphs,
    unique_name,
    uses,
    value_names,
)

__all__ = [
    "Axes",
    "Channels",
    "Group",
    "Handler",
    "Made",
    "Tracker",
    "find_channels",
    "own_tensors",
]

Axes = dict[int, np.ndarray]
"""For each axis of a tensor that lies along channels, the number of each position's channel."""

_OWN_SIZE = 1 << 16
"""Shared vectors of at most so many elements are copied rather than coupling what uses them."""


@dataclass(frozen=True)
class Group:
    """Channels that are alike: made by the same layers, read by the same layers.

    Attributes:
        channels: their numbers.
        makers: names of the weight initializers that make them.
    """

    channels: np.ndarray
    makers: tuple[str, ...]


@dataclass
class Channels:
    """What :func:`find_channels` found; channels are named by their numbers.

    Attributes:
        tensors: initializer → axis → the channel of each position.
        values: value → axis → the channel of each position.
        lengths: initializer → flat position → the channels that the number there counts (target
            shapes of Reshape, sizes of Split and Resize).
        groups: first output of each node whose ``group`` attribute counts channels, and these.
        readers: layers' weights whose inputs are channels, with that axis.
        makers: layers' weights whose outputs are new channels, with that axis.
        links: depthwise weights that make channels of their own from those they read, one each:
            the channels read, and those made. Only where a handler wants it so.
        free: groups of channels that may be removed.
        frozen: weight that makes channels that may not → why.
    """

    tensors: dict[str, Axes]
    values: dict[str, Axes]
    lengths: dict[str, dict[int, np.ndarray]]
    groups: list[tuple[str, np.ndarray]]
    readers: dict[str, int]
    makers: dict[str, int]
    links: dict[str, tuple[np.ndarray, np.ndarray]]
    free: list[Group]
    frozen: dict[str, str]


@dataclass
class Tracker:
    """State of the walk through a graph; operators' handlers read and write it.

    Attributes:
        held: the model's initializers.
        shapes: value → its dimensions, numbers where they are known and else names or None.
        version: of the standard operators.
        made_by: value → the node that gives it.
        blocks: weights with the channels they make, in the order of the graph.
        reasons: why channels must stay; no reason for those of the model's outputs.
        seen: initializer → use → the axes that were claimed there.
    """

    held: dict[str, TensorProto]
    shapes: Mapping[str, Sequence[int | str | None]]
    version: int
    made_by: dict[str, NodeProto] = field(default_factory=dict)
    values: dict[str, Axes] = field(default_factory=dict)
    tensors: dict[str, Axes] = field(default_factory=dict)
    lengths: dict[str, dict[int, np.ndarray]] = field(default_factory=dict)
    groups: list[tuple[str, np.ndarray]] = field(default_factory=list)
    readers: dict[str, int] = field(default_factory=dict)
    makers: dict[str, int] = field(default_factory=dict)
    links: dict[str, tuple[np.ndarray, np.ndarray]] = field(default_factory=dict)
    blocks: list[tuple[str, np.ndarray]] = field(default_factory=list)
    reasons: dict[int, str] = field(default_factory=dict)
    parents: list[int] = field(default_factory=list)
    seen: dict[str, dict[tuple[str, int], set[int]]] = field(
        default_factory=lambda: defaultdict(dict)
    )

    def fresh(self, count: int, maker: str = "") -> np.ndarray:
        """Number ``count`` new channels, made by the weight ``maker``."""
        start = len(self.parents)
        self.parents.extend(range(start, start + count))
        numbers = np.arange(start, start + count)
        if maker:
            self.blocks.append((maker, numbers))
        return numbers

    def root(self, number: int) -> int:
        """Return the number that stands for all channels that became one with this one."""
        while self.parents[number] != number:
            self.parents[number] = self.parents[self.parents[number]]
            number = self.parents[number]
        return number

    def roots(self, numbers: np.ndarray) -> np.ndarray:
        """Return :meth:`root` of each."""
        return np.array([self.root(int(n)) for n in numbers], np.int64)

    def join(self, one: np.ndarray, two: np.ndarray) -> None:
        """Make channels one, position by position."""
        for a, b in zip(one, two, strict=True):
            x, y = self.root(int(a)), self.root(int(b))
            if x != y:
                self.parents[max(x, y)] = min(x, y)

    def freeze(self, numbers: np.ndarray, reason: str) -> None:
        """Say that these channels must all stay."""
        for number in numbers:
            self.reasons.setdefault(int(number), reason)

    def freeze_value(self, name: str, reason: str, *, but: Sequence[int] = ()) -> None:
        """Freeze a value's channels, but those along some axes."""
        for axis, numbers in self.values.get(name, {}).items():
            if axis not in but:
                self.freeze(numbers, reason)

    def claim(self, node: NodeProto, index: int, axis: int, numbers: np.ndarray) -> bool:
        """Say that an axis of a node's initializer lies along channels; False if it cannot."""
        name = node.input[index]
        tensor = self.held.get(name)
        if tensor is None or axis >= len(tensor.dims) or tensor.dims[axis] != len(numbers):
            return False
        self.seen[name].setdefault((_key(node), index), set()).add(axis)
        axes = self.tensors.setdefault(name, {})
        if axis in axes:
            self.join(axes[axis], numbers)
        else:
            axes[axis] = numbers
        return True

    def constant(self, name: str) -> np.ndarray | None:
        """Return an initializer's values, or None when the value is none."""
        return numpy_helper.to_array(self.held[name]) if name in self.held else None

    def rank(self, name: str) -> int | None:
        """Return a value's number of axes, or None when it is not known."""
        if name in self.held:
            return len(self.held[name].dims)
        shape = self.shapes.get(name)
        return None if shape is None else len(shape)

    def size(self, name: str, axis: int) -> int | str | None:
        """Return the length of an axis, its name, or None."""
        if name in self.held:
            return int(self.held[name].dims[axis])
        return self.shapes[name][axis]


Made = dict[str, Axes] | str
"""The channels of a node's outputs, or why the channels of its inputs must stay."""

Handler = Callable[[Tracker, NodeProto], Made]


def find_channels(model: ModelProto, handlers: Mapping[str, Handler]) -> Channels:
    """Follow the channels of a normalised model.

    Args:
        model: a model after :func:`own_tensors`, with its nodes in order.
        handlers: what to do at each operator of the standard domain.
    """
    tracker = Tracker(initializers(model), _shapes(model), opset(model))
    read = set(uses(model)) | {value.name for value in model.graph.output}
    for node in model.graph.node:
        outputs: Made = f"{node_label(node)} is not followed"
        if any(True for _ in subgraphs(node)):
            _freeze_captured(tracker, node)
            outputs = f"{node_label(node)} holds a subgraph"
        elif node.domain in ("", "ai.onnx") and node.op_type in handlers:
            outputs = handlers[node.op_type](tracker, node)
            # such as a Dropout's mask and a pool's indices; of numbers alone nothing is followed
            beyond = [name for name in node.output[1:] if name in read and name not in outputs]
            if outputs and beyond and not isinstance(outputs, str):
                outputs = f"{node_label(node)} gives {beyond[0]!r} too, which is not followed"
        if isinstance(outputs, str):
            for name in node.input:
                tracker.freeze_value(name, outputs)
            outputs = {}
        tracker.values |= {name: axes for name, axes in outputs.items() if axes}
        tracker.made_by |= {name: node for name in node.output if name}
    for value in model.graph.output:
        tracker.freeze_value(value.name, "")
        for numbers in tracker.tensors.get(value.name, {}).values():
            tracker.freeze(numbers, "")
    _freeze_shared(tracker, model)
    return _result(tracker)


def own_tensors(model: ModelProto) -> None:
    """Give each use of a small vector a copy of its own, in place.

    Biases that happen to be equal are stored once; their layers have nothing else in common.
    """
    held, where = initializers(model), uses(model)
    taken = value_names(model)
    direct = {_key(node) for node in model.graph.node}
    for name, tensor in held.items():
        size = int(np.prod(tensor.dims, dtype=np.int64))
        matrix = sum(dim > 1 for dim in tensor.dims) > 1
        for use in where[name][1:] if size <= _OWN_SIZE and not matrix else ():
            if _key(use.node) not in direct:
                continue
            copy = unique_name(f"{name}_own", taken)
            use.node.input[use.index] = copy
            model.graph.initializer.add().CopyFrom(tensor)
            model.graph.initializer[-1].name = copy


def _key(node: NodeProto) -> str:
    """Return what tells a node from all others: its first output."""
    return next((name for name in node.output if name), "")


def _shapes(model: ModelProto) -> dict[str, list[int | str | None]]:
    graph = inferred(model, data_prop=True).graph
    found: dict[str, list[int | str | None]] = {}
    for value in (*graph.input, *graph.value_info, *graph.output):
        if value.type.tensor_type.HasField("shape"):
            found[value.name] = [
                int(dim.dim_value) if dim.HasField("dim_value") else dim.dim_param or None
                for dim in value.type.tensor_type.shape.dim
            ]
    return found


def _freeze_captured(tracker: Tracker, node: NodeProto) -> None:
    reason = f"{node_label(node)} reads it in a subgraph"
    for inner in subgraphs(node):
        for nested in inner.node:
            for name in nested.input:
                tracker.freeze_value(name, reason)
            _freeze_captured(tracker, nested)
        for value in inner.output:
            tracker.freeze_value(value.name, reason)


def _freeze_shared(tracker: Tracker, model: ModelProto) -> None:
    """Freeze channels of tensors that something else uses as a whole."""
    where = uses(model)
    for name, axes in tracker.tensors.items():
        for use in where[name]:
            known = tracker.seen[name].get((_key(use.node), use.index), set())
            for axis, numbers in axes.items():
                if axis not in known:
                    tracker.freeze(numbers, f"{node_label(use.node)} uses {name!r} too")


def _result(tracker: Tracker) -> Channels:
    reasons: dict[int, str] = {}
    for number, reason in tracker.reasons.items():
        root = tracker.root(number)
        reasons[root] = reasons.get(root) or reason
    makers: dict[int, list[str]] = defaultdict(list)
    frozen: dict[str, str] = {}
    for maker, numbers in tracker.blocks:
        for root in dict.fromkeys(map(int, tracker.roots(numbers))):
            if root in reasons:
                frozen[maker] = frozen.get(maker) or reasons[root]
            elif maker not in makers[root]:
                makers[root].append(maker)
    cells: dict[tuple[str, ...], list[int]] = defaultdict(list)
    for root, names in makers.items():
        if names:
            cells[tuple(names)].append(root)

    def resolved(axes: Axes) -> Axes:
        return {axis: tracker.roots(numbers) for axis, numbers in axes.items()}

    return Channels(
        {name: resolved(axes) for name, axes in tracker.tensors.items()},
        {name: resolved(axes) for name, axes in tracker.values.items()},
        {
            name: {at: tracker.roots(numbers) for at, numbers in places.items()}
            for name, places in tracker.lengths.items()
        },
        [(index, tracker.roots(numbers)) for index, numbers in tracker.groups],
        tracker.readers,
        tracker.makers,
        {
            name: (tracker.roots(ins), tracker.roots(outs))
            for name, (ins, outs) in tracker.links.items()
        },
        [Group(np.array(sorted(roots)), names) for names, roots in cells.items()],
        frozen,
    )
