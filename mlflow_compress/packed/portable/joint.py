"""The node that decodes the streams of all weights at once, and the Concat nodes before it.

One walk through all streams side by side takes as many nodes as one through a single stream: a
walk for each weight would make ONNX Runtime fold hundreds of nodes for each, in a time that grows
with their square. ``docs/format.md``, section 7.
"""

from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate

from onnx import NodeProto, TensorProto, ValueInfoProto, helper

from mlflow_compress.packed.codec.streams import Segments
from mlflow_compress.packed.format import DOMAIN
from mlflow_compress.packed.portable.functions import STREAMS

__all__ = ["PREFIX", "Joint", "fits", "is_prefix"]

PARTS = 3  # stream, starts, tree: a Concat for each
PREFIX = PARTS + 1


class Joint:
    """Collects streams in the order of the nodes that read them."""

    def __init__(self) -> None:
        self._streams: list[tuple[Segments, int, tuple[TensorProto, ...]]] = []

    def add(self, segments: Segments, count: int, tensors: Sequence[TensorProto]) -> int:
        """Add a stream of ``count`` symbols; return the place where the next one begins.

        Args:
            segments: the stream.
            count: its symbols.
            tensors: the initializers of stream, starts and tree.
        """
        self._streams.append((segments, count, tuple(tensors)))
        return self.symbols

    @property
    def symbols(self) -> int:
        """Symbols of all streams so far."""
        return sum(count for _, count, _ in self._streams)

    def finish(
        self, names: Iterator[str], merge: bool
    ) -> tuple[list[NodeProto], list[ValueInfoProto], str]:
        """The nodes, the length of what they decode, and its name; nothing without streams.

        All starts become uint16 if one needs it.

        Args:
            names: unused names.
            merge: whether to say how many codes can end within a nibble.
        """
        if not self._streams:
            return [], [], ""
        if any(tensors[1].data_type == TensorProto.UINT16 for _, _, tensors in self._streams):
            for segments, _, tensors in self._streams:
                tensors[1].data_type = TensorProto.UINT16
                tensors[1].raw_data = segments.starts.astype("<u2").tobytes()
        parts = [next(names) for _ in range(PARTS)]
        decoded = next(names)
        read = [[tensors[i].name for *_, tensors in self._streams] for i in range(PARTS)]
        nodes = [
            helper.make_node("Concat", r, [n], axis=0) for r, n in zip(read, parts, strict=True)
        ]
        slots = max(segments.slots for segments, _, _ in self._streams)
        forest = _forest((len(s.tree), len(s.order)) for s, _, _ in self._streams)
        firsts = _firsts(len(s.stream) for s, _, _ in self._streams)
        attributes = {"forest": forest, "segments": firsts}
        if merge:
            attributes["slots"] = [slots, 4 // slots, -1, 16]
        nodes.append(helper.make_node(STREAMS, parts, [decoded], domain=DOMAIN, **attributes))
        info = helper.make_tensor_value_info(decoded, TensorProto.UINT16, [self.symbols])
        return nodes, [info], decoded


def _firsts(counts: Iterable[int]) -> list[int]:
    return [0, *accumulate(counts)][:-1]


def _forest(trees: Iterable[tuple[int, int]]) -> list[int]:
    """Of each tree: root, what to take off to number inner nodes and leaves, leaves.

    Inner nodes have numbers in the order of the bits of all trees, two bits to a node; those
    behind a tree's end, which fill its last byte, are numbered like nodes with two leaves.

    Args:
        trees: bytes and codes of each.
    """
    numbers, root, inner = [], 0, 0
    for size, codes in trees:
        numbers += [root, inner - root, 2 * root - inner, codes + 1]
        root += 4 * size
        inner += codes - 1
    return numbers


def is_prefix(nodes: Sequence[NodeProto]) -> bool:
    """Whether a graph begins with the nodes of :meth:`Joint.finish`."""
    return (
        len(nodes) >= PREFIX
        and nodes[PARTS].domain == DOMAIN
        and nodes[PARTS].op_type == STREAMS
        and all(node.op_type == "Concat" and not node.domain for node in nodes[:PARTS])
        and list(nodes[PARTS].input) == [node.output[0] for node in nodes[:PARTS]]
        and len(nodes[PARTS].output) == 1
    )


def fits(nodes: Sequence[NodeProto], streams: Sequence[Sequence[TensorProto]]) -> bool:
    """Whether the nodes that a graph begins with decode just these streams, in this order.

    Args:
        nodes: what :func:`is_prefix` accepts.
        streams: stream, starts, tree and symbols of each.
    """
    for i, node in enumerate(nodes[:PARTS]):
        axis = [attribute.i for attribute in node.attribute if attribute.name == "axis"]
        if list(node.input) != [tensors[i].name for tensors in streams] or axis != [0]:
            return False
    said = {attribute.name: list(attribute.ints) for attribute in nodes[PARTS].attribute}
    forest = _forest((len(tree.raw_data), symbols.dims[0] - 1) for *_, tree, symbols in streams)
    return said.get("forest") == forest and said.get("segments") == _firsts(
        starts.dims[0] for _, starts, *_ in streams
    )
