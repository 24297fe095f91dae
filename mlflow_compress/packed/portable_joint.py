"""The node that decodes the streams of all weights at once, and the Concat nodes before it.

One walk through all streams side by side takes as many nodes as one through a single stream: a
walk for each weight would make ONNX Runtime fold hundreds of nodes for each, in a time that grows
with their square. ``docs/format.md``, section 7.
"""

from collections.abc import Iterator, Sequence

import numpy as np
from onnx import NodeProto, TensorProto, ValueInfoProto, helper

from mlflow_compress.packed.format import DOMAIN
from mlflow_compress.packed.portable_functions import STREAMS
from mlflow_compress.packed.portable_stream import Segments

__all__ = ["PREFIX", "Joint", "is_prefix"]

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
        nodes = [
            helper.make_node(
                "Concat", [tensors[i].name for *_, tensors in self._streams], [n], axis=0
            )
            for i, n in enumerate(parts)
        ]
        slots = max(segments.slots for segments, _, _ in self._streams)
        firsts = np.cumsum([0, *(len(segments.stream) for segments, _, _ in self._streams)])
        attributes = {"forest": self._forest(), "segments": firsts[:-1].tolist()}
        if merge:
            attributes["slots"] = [slots, 4 // slots, -1, 16]
        nodes.append(helper.make_node(STREAMS, parts, [decoded], domain=DOMAIN, **attributes))
        info = helper.make_tensor_value_info(decoded, TensorProto.UINT16, [self.symbols])
        return nodes, [info], decoded

    def _forest(self) -> list[int]:
        """Of each tree: root, what to take off to number inner nodes and leaves, leaves.

        Inner nodes have numbers in the order of the bits of all trees, two bits to a node; those
        behind a tree's end, which fill its last byte, are numbered like nodes with two leaves.
        """
        numbers, root, inner = [], 0, 0
        for segments, _, _ in self._streams:
            codes = len(segments.order)
            numbers += [root, inner - root, 2 * root - inner, codes + 1]
            root += 4 * len(segments.tree)
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
