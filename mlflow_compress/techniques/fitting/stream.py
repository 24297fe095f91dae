"""Activations of a model whose layers change one after the other, each part run only once.

Asking for a value runs the nodes between it and values that are known already, so that going
through a model layer by layer costs about one run of it, not one per layer.
"""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from onnx import ModelProto, NodeProto, helper

from mlflow_compress.techniques.graph.running import run, session
from mlflow_compress.techniques.graph.walk import captured_reads

__all__ = ["Stream"]

_BUDGET = 1 << 28
"""So many bytes of activations are kept; of more, those used longest ago go.

A value that alone takes more is not kept: it is made anew, batch by batch, each time."""


class Stream:
    """Values of a model on batches of inputs.

    The model may change while it is used, but only in layers that no value asked for so far
    depends on.
    """

    def __init__(self, model: ModelProto, fed: Sequence[Mapping[str, np.ndarray]]) -> None:
        """Remember the model and its inputs, batch by batch."""
        self.model = model
        self._fed = fed
        self._inputs = {value.name for value in model.graph.input}
        self._known: dict[str, list[np.ndarray]] = {}
        self._makers = {name: i for i, node in enumerate(model.graph.node) for name in node.output}

    def has(self, name: str) -> bool:
        """Whether the model computes a value of this name, or is given it."""
        return name in self._inputs or name in self._makers

    def values(self, name: str) -> Iterator[np.ndarray]:
        """Yield a value, batch by batch."""
        if name in self._inputs:
            return iter([np.asarray(batch[name]) for batch in self._fed])
        if name not in self._known:
            return self._made(name)
        self._known[name] = self._known.pop(name)  # used last
        return iter(self._known[name])

    def drop(self, name: str) -> None:
        """Forget a value, because a layer that it depends on changes after all."""
        self._known.pop(name, None)

    def _made(self, name: str) -> Iterator[np.ndarray]:
        """Yield a value that is not known, and keep it if there is room."""
        kept: list[np.ndarray] | None = []
        for array in self._run(name):
            yield array
            if kept is not None:
                kept.append(array)
                size = sum(_bytes(one) for one in kept)
                if size > _BUDGET:
                    kept = None
                else:
                    self._forget(size)
        if kept is not None:
            self._known[name] = kept

    def _run(self, name: str) -> Iterator[np.ndarray]:
        nodes, given = self._needed(name)
        part = ModelProto()
        part.ir_version = self.model.ir_version
        part.opset_import.extend(self.model.opset_import)
        part.functions.extend(self.model.functions)
        part.graph.name = "part"
        part.graph.node.extend(nodes)
        wanted = {value for node in nodes for value in captured_reads(node)}
        part.graph.initializer.extend(t for t in self.model.graph.initializer if t.name in wanted)
        part.graph.input.extend(v for v in self.model.graph.input if v.name in given)
        known = {value: self._known[value] for value in given - self._inputs}
        for value, arrays in known.items():
            kind = helper.np_dtype_to_tensor_dtype(arrays[0].dtype)
            part.graph.input.append(helper.make_tensor_value_info(value, kind, None))
        part.graph.output.add().name = name
        opened = session(part, fast=True)
        for i, batch in enumerate(self._fed):
            feed = {v: known[v][i] if v in known else batch[v] for v in given}
            yield run(opened, [name], feed)[0]

    def _needed(self, name: str) -> tuple[list[NodeProto], set[str]]:
        """Return the nodes that give a value, in order, and the known values they start from."""
        nodes: set[int] = set()
        given: set[str] = set()
        waiting = [name]
        while waiting:
            value = waiting.pop()
            if value in self._inputs or value in self._known:
                given.add(value)
            elif value in self._makers and self._makers[value] not in nodes:
                nodes.add(self._makers[value])
                waiting.extend(captured_reads(self.model.graph.node[self._makers[value]]))
        found = [self.model.graph.node[i] for i in sorted(nodes)]
        # of a node with several outputs, one may be known, and is made again with the others
        return found, given - {value for node in found for value in node.output}

    def _forget(self, coming: float) -> None:
        """Forget what was used longest ago, until so many bytes have room too."""
        sizes = {name: sum(_bytes(a) for a in arrays) for name, arrays in self._known.items()}
        total = sum(sizes.values()) + coming
        for name in list(self._known):
            if total <= _BUDGET:
                return
            total -= sizes[name]
            del self._known[name]


def _bytes(value: object) -> float:
    """Return what a value takes; a sequence or an optional cannot be kept."""
    return value.nbytes if isinstance(value, np.ndarray) else np.inf
