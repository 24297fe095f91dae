"""Short names for the values inside a graph; exported ones may take a tenth of a packed file."""

from onnx import ModelProto

from mlflow_compress.techniques.onnx_graph import clone, walk_graphs, walk_nodes

__all__ = ["shorten_names"]

_DIGITS = "abcdefghijklmnopqrstuvwxyz"


def shorten_names(model: ModelProto) -> ModelProto:
    """Return the model with short names for what nodes of the main graph hand to each other.

    Inputs, outputs and weights keep their names; nodes lose theirs.
    """
    model = clone(model)
    graph = model.graph
    taken = {value.name for value in (*graph.input, *graph.output)}
    for inner in walk_graphs(graph):
        taken |= {tensor.name for tensor in inner.initializer}
        taken |= {value.name for value in (*inner.input, *inner.output)}
        taken |= {tensor.values.name for tensor in inner.sparse_initializer}
    for node in walk_nodes(graph):
        taken |= {name for name in node.output if name}
    kept = {value.name for value in graph.output}
    short: dict[str, str] = {}
    count = 0
    for node in graph.node:
        for name in node.output:
            if name and name not in kept and name not in short:
                while _letters(count) in taken:
                    count += 1
                short[name] = _letters(count)
                count += 1
    for node in walk_nodes(graph):
        node.name = ""
        node.input[:] = [short.get(name, name) for name in node.input]
        node.output[:] = [short.get(name, name) for name in node.output]
    for inner in walk_graphs(graph):
        for value in (*inner.value_info, *(() if inner is graph else inner.output)):
            value.name = short.get(value.name, value.name)
    for annotation in graph.quantization_annotation:
        annotation.tensor_name = short.get(annotation.tensor_name, annotation.tensor_name)
    return model


def _letters(number: int) -> str:
    """Return a, b … z, aa, ab and so on for 0, 1 and so on."""
    text = _DIGITS[number % len(_DIGITS)]
    while number >= len(_DIGITS):
        number = number // len(_DIGITS) - 1
        text = _DIGITS[number % len(_DIGITS)] + text
    return text
