"""Activations of a model whose layers change one after the other, each part run only once.

Asking for a value runs the nodes between it and values that are known already, so that going
through a model layer by layer costs about one run of it, not one per layer.
"""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from onnx import ModelProto, NodeProto, helper

from mlflow_compress.techniques.onnx_graph import captured_reads
from mlflow_compress.techniques.onnx_run import run, session

__all__ = ["Stream"]

_BUDGET = 1 << 29
"""So many bytes of activations are kept; of more, those used longest ago go."""


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
            made = self._run(name)
            self._known[name] = made
            self._forget()
            return iter(made)
        self._known[name] = self._known.pop(name)  # used last
        return iter(self._known[name])

    def drop(self, name: str) -> None:
        """Forget a value, because a layer that it depends on changes after all."""
        self._known.pop(name, None)

    def _run(self, name: str) -> list[np.ndarray]:
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
        for value in given - self._inputs:
            kind = helper.np_dtype_to_tensor_dtype(self._known[value][0].dtype)
            part.graph.input.append(helper.make_tensor_value_info(value, kind, None))
        part.graph.output.add().name = name
        opened = session(part, fast=True)
        return [
            run(opened, [name], {v: batch[v] if v in self._inputs else self._known[v][i]
                                 for v in given})[0]
            for i, batch in enumerate(self._fed)
        ]  # fmt: skip

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

    def _forget(self) -> None:
        sizes = {name: sum(a.nbytes for a in arrays) for name, arrays in self._known.items()}
        total = sum(sizes.values())
        for name in list(self._known):
            if total <= _BUDGET:
                return
            total -= sizes[name]
            del self._known[name]
