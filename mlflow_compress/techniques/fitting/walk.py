"""Walks a model from value to value over calibration inputs, so that each node runs once.

Techniques that treat one layer after the other need what goes into each, computed by the layers
before as they have become. Running the model from its inputs for every layer costs the square of
its depth; a walk keeps the values at the cut between what has run and what has not.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np
from onnx import ModelProto, helper

from mlflow_compress.techniques.graph.running import run, session
from mlflow_compress.techniques.graph.walk import (
    captured_reads,
    clone,
    initializers,
    sort_nodes,
)

__all__ = ["Walk"]

_KEEP_BYTES = 1 << 28
"""A cut whose values take more is not kept: the next segment starts at the cut before it."""

Feed = dict[str, np.ndarray]


class Walk:
    """Gives values of a model one after another, in the order of its nodes.

    Weights of the model may change behind the walk: those that a value depends on have to be
    final when it is asked for.

    Args:
        model: the model, whose initializers are read anew for each value.
        inputs: the calibration inputs, in batches.
        stops: the values that will be asked for; others are not kept.
    """

    def __init__(
        self, model: ModelProto, inputs: Sequence[Mapping[str, np.ndarray]], stops: Sequence[str]
    ) -> None:
        self._model = model
        ordered = clone(model)
        del ordered.graph.initializer[:]
        sort_nodes(ordered.graph)
        self._nodes = list(ordered.graph.node)
        self._reads = [captured_reads(node) - {""} for node in self._nodes]
        self._made_by = {
            name: index for index, node in enumerate(self._nodes) for name in node.output if name
        }
        self._stops = list(stops)
        self._store: list[Feed] = [dict(batch) for batch in inputs]

    def values(self, name: str, *, keep: bool = True) -> Iterator[np.ndarray]:
        """Yield the value ``name`` of each batch.

        Args:
            name: a value of the main graph, no initializer.
            keep: whether what had to run for it is final; False computes it again next time.
        """
        if name in self._store[0]:
            for held in self._store:
                yield held[name]
            return
        segment = self._segment([name])
        wanted = self._wanted(segment, name)
        opened = session(self._part(segment, wanted))
        kept: list[Feed] = []
        given = [value.name for value in opened.get_inputs()]
        for feed in self._store:
            outputs = run(opened, wanted, {key: feed[key] for key in given})
            made = dict(zip(wanted, outputs, strict=True))
            yield made[name]
            kept.append(made)
            if not keep or _bytes(made) * len(self._store) > _KEEP_BYTES:
                keep, kept = False, []
        if keep:
            self._commit(kept)

    def _segment(self, names: Iterable[str]) -> list[int]:
        """Return the nodes that have to run for some values, in order."""
        have, found, stack = self._store[0], set(), list(names)
        while stack:
            value = stack.pop()
            index = self._made_by.get(value)
            if value not in have and index is not None and index not in found:
                found.add(index)
                stack.extend(self._reads[index])
        return sorted(found)

    def _wanted(self, segment: list[int], name: str) -> list[str]:
        """Return the values of a segment that nodes after it read on the way to a stop."""
        inside = set(segment)
        read = self._still_read(inside)
        made = [value for index in segment for value in self._nodes[index].output if value in read]
        return list(dict.fromkeys([name, *made]))

    def _still_read(self, done: set[int]) -> set[str]:
        """Return the values that nodes not done yet read on the way to a stop, and the stops."""
        later = set(self._segment(self._stops)) - done
        return {value for index in later for value in self._reads[index]} | set(self._stops)

    def _part(self, segment: list[int], wanted: Sequence[str]) -> ModelProto:
        held, have = initializers(self._model), self._store[0]
        part = ModelProto(ir_version=self._model.ir_version)
        part.opset_import.extend(self._model.opset_import)
        part.functions.extend(self._model.functions)
        part.graph.name = "segment"
        part.graph.node.extend(self._nodes[index] for index in segment)
        # of a node with several outputs, one may be known, and is made again with the others
        made = {value for index in segment for value in self._nodes[index].output}
        read = [v for index in segment for v in sorted(self._reads[index]) if v not in made]
        read = list(dict.fromkeys(read))
        part.graph.initializer.extend(held[value] for value in read if value in held)
        ranks = {value: have[value].ndim for value in read if value in have and value not in held}
        for value, rank in ranks.items():
            kind = helper.np_dtype_to_tensor_dtype(have[value].dtype)
            part.graph.input.append(helper.make_tensor_value_info(value, kind, [None] * rank))
        for value in wanted:
            part.graph.output.add().name = value
        return part

    def _commit(self, kept: list[Feed]) -> None:
        """Move the cut behind a segment, and drop what nothing after it reads."""
        for feed, made in zip(self._store, kept, strict=True):
            feed.update(made)
        read = self._still_read(set())
        for feed in self._store:
            for value in [value for value in feed if value not in read]:
                del feed[value]

    def leave(self, name: str) -> None:
        """Say that a value will not be asked for again."""
        self._stops.remove(name)


def _bytes(values: Feed) -> float:
    """Return what values take; a sequence or an optional cannot be kept."""
    return sum(a.nbytes if isinstance(a, np.ndarray) else np.inf for a in values.values())
