"""Whether a target's runtime can take a model at all, before anything is measured on it."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from mlflow_compress.records import Needs
from mlflow_compress.targets.computed import computed_types, name_of, subgraphs
from mlflow_compress.targets.dtypes import DTYPES

if TYPE_CHECKING:
    from mlflow_compress.targets.profile import Target

__all__ = ["is_limited", "lacks", "needs_of", "why_not"]

_ONNX = ("", "ai.onnx")


def why_not(model: Any, target: "Target") -> str:
    """Say in one line why the target's runtime cannot take a model, or nothing when it can.

    Args:
        model: an ``onnx.ModelProto``; subgraphs and functions are looked at too.
        target: its ``execution`` names the opset, the types and the missing operators.
    """
    return lacks(needs_of(model), target)


def is_limited(target: "Target") -> bool:
    """Say whether the target's runtime lacks anything, as far as its profile tells."""
    limits = target.execution
    return bool(limits.opset or limits.dtypes or limits.without_operators)


def lacks(needs: Needs, target: "Target") -> str:
    """Say in one line what of ``needs`` the target's runtime lacks, or nothing."""
    limits = target.execution
    runtime = f"{limits.runtime} of target {target.name!r}"
    if limits.opset and needs.opset > limits.opset:
        return f"{runtime} takes opset {limits.opset}, the model is of opset {needs.opset}"
    for operator, node in needs.operators.items():
        if operator in limits.without_operators:
            return f"{runtime} has no operator {operator} (node {node!r})"
    for name, what in needs.dtypes.items():
        if limits.dtypes and name not in limits.dtypes:
            return f"{runtime} takes {', '.join(limits.dtypes)}, {what} is {name}"
    return ""


def needs_of(model: Any) -> Needs:
    """Return what a runtime has to have to run a model.

    Args:
        model: an ``onnx.ModelProto`` as the runtime sees it: packed in the portable profile, or
            not packed. Subgraphs and functions are looked at too. Types are those of weights,
            inputs, outputs, constants, casts, and what :func:`computed_types` finds.
    """
    imports = [*model.opset_import, *(one for f in model.functions for one in f.opset_import)]
    operators: dict[str, str] = {}
    dtypes: dict[str, str] = {}
    for node in _nodes(model):
        prefix = "" if node.domain in _ONNX else f"{node.domain}."
        operators.setdefault(prefix + node.op_type, name_of(node))
    for what, number in _types(model):
        dtypes.setdefault(DTYPES.get(number, f"type {number}"), what)
    try:
        for what, number in computed_types(model):
            dtypes.setdefault(DTYPES.get(number, f"type {number}"), what)
    except ValueError:
        # No target that names its types takes it: what is not known may be what it lacks.
        dtypes.setdefault("unknown", "the type of what its nodes compute")
    opset = max((one.version for one in imports if one.domain in _ONNX), default=0)
    return Needs(opset, operators, dtypes)


def _graphs(model: Any) -> Iterator[Any]:
    """Yield the graph, its subgraphs, and the bodies of functions."""
    waiting = [model.graph, *model.functions]
    while waiting:
        graph = waiting.pop()
        yield graph
        for node in graph.node:
            waiting.extend(subgraphs(node))


def _nodes(model: Any) -> Iterator[Any]:
    for graph in _graphs(model):
        yield from graph.node


def _types(model: Any) -> Iterator[tuple[str, int]]:
    """Yield what says its type, with its number: weights, inputs, outputs, casts, constants."""
    for graph in _graphs(model):
        for tensor in getattr(graph, "initializer", ()):
            yield f"weight {tensor.name!r}", tensor.data_type
        for kind in ("input", "output"):
            for value in getattr(graph, kind):
                # A function's inputs and outputs are names without a type.
                if not isinstance(value, str) and value.type.HasField("tensor_type"):
                    yield f"{kind} {value.name!r}", value.type.tensor_type.elem_type
        for node in graph.node:
            for attribute in node.attribute:
                if attribute.HasField("t"):
                    yield f"the constant of node {name_of(node)!r}", attribute.t.data_type
                if node.op_type == "Cast" and attribute.name == "to":
                    yield f"the output of node {name_of(node)!r}", attribute.i
