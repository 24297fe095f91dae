"""Gives each value of a model a name of its own, whatever graph it is in.

ONNX lets a nested graph (the branch of an If, the body of a Loop) name its values as another graph
does that does not enclose it, or even as one that does. Two values of one name are two values: a
step that looks them up by name alone would take one for the other.
"""

from collections.abc import Mapping

from onnx import GraphProto, ModelProto

from mlflow_compress.techniques.graph.walk import subgraphs, unique_name, value_names

__all__ = ["name_apart"]


def name_apart(model: ModelProto) -> None:
    """Rename the values of nested graphs so that no two values of the model share a name.

    Values of the main graph keep theirs. The model is changed in place.
    """
    taken = value_names(model)
    used = set(_defined(model.graph))
    for node in model.graph.node:
        for inner in subgraphs(node):
            _rename(inner, {}, used, taken)


def _rename(graph: GraphProto, outer: Mapping[str, str], used: set[str], taken: set[str]) -> None:
    """Name the values of a graph apart, and what it and its nested graphs read accordingly.

    Args:
        graph: a nested graph; it is changed.
        outer: new names of the values around it, by their old ones.
        used: the names that values have so far.
        taken: all names of the model, which no new one may be.
    """
    names = dict(outer)
    for name in dict.fromkeys(_defined(graph)):
        names[name] = unique_name(name, taken) if name in used else name
        used.add(names[name])
    for value in (*graph.input, *graph.output, *graph.value_info):
        value.name = names.get(value.name, value.name)
    for tensor in graph.initializer:
        tensor.name = names.get(tensor.name, tensor.name)
    for sparse in graph.sparse_initializer:
        sparse.values.name = names.get(sparse.values.name, sparse.values.name)
    for annotation in graph.quantization_annotation:
        annotation.tensor_name = names.get(annotation.tensor_name, annotation.tensor_name)
    for node in graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names.get(name, name) for name in node.output]
        for inner in subgraphs(node):
            _rename(inner, names, used, taken)


def _defined(graph: GraphProto) -> list[str]:
    """Return the names of the values that a graph itself defines."""
    return [
        name
        for name in (
            *(value.name for value in graph.input),
            *(tensor.name for tensor in graph.initializer),
            *(sparse.values.name for sparse in graph.sparse_initializer),
            *(output for node in graph.node for output in node.output),
        )
        if name
    ]
