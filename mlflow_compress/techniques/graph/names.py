"""Short names for the values inside a graph; exported ones may take a tenth of a packed file."""

from collections.abc import Iterable, Mapping

from onnx import ModelProto

from mlflow_compress.techniques.graph.walk import clone, value_names, walk_graphs, walk_nodes

__all__ = ["shorten_names", "shorten_weights"]

_DIGITS = "abcdefghijklmnopqrstuvwxyz"


def shorten_names(model: ModelProto) -> ModelProto:
    """Return the model with short names for what nodes of the main graph hand to each other.

    Inputs, outputs and weights keep their names; nodes lose theirs.
    """
    model = clone(model)
    graph = model.graph
    kept = {value.name for value in graph.output}
    made = [name for node in graph.node for name in node.output if name and name not in kept]
    _rename(model, _short(made, value_names(model)))
    for node in walk_nodes(graph):
        node.name = ""
    return model


def shorten_weights(model: ModelProto) -> tuple[ModelProto, dict[str, str]]:
    """Return the model with short names for its weights, and the old name of each new one.

    Weights that are inputs or outputs too keep theirs.
    """
    model = clone(model)
    kept = {value.name for value in (*model.graph.input, *model.graph.output)}
    held = [tensor.name for tensor in model.graph.initializer if tensor.name not in kept]
    short = _short(held, value_names(model) - set(held))
    _rename(model, short)
    for tensor in model.graph.initializer:
        tensor.name = short.get(tensor.name, tensor.name)
    return model, {new: old for old, new in short.items() if new != old}


def _short(names: Iterable[str], taken: set[str]) -> dict[str, str]:
    """Return a short name for each, none of them taken."""
    short: dict[str, str] = {}
    count = 0
    for name in names:
        if name in short:
            continue
        while _letters(count) in taken:
            count += 1
        short[name] = _letters(count)
        count += 1
    return short


def _rename(model: ModelProto, short: Mapping[str, str]) -> None:
    """Rename values wherever they are read, made or annotated."""
    graph = model.graph
    for node in walk_nodes(graph):
        node.input[:] = [short.get(name, name) for name in node.input]
        node.output[:] = [short.get(name, name) for name in node.output]
    for inner in walk_graphs(graph):
        for value in (*inner.value_info, *(() if inner is graph else inner.output)):
            value.name = short.get(value.name, value.name)
    for annotation in graph.quantization_annotation:
        annotation.tensor_name = short.get(annotation.tensor_name, annotation.tensor_name)


def _letters(number: int) -> str:
    """Return a, b … z, aa, ab and so on for 0, 1 and so on."""
    text = _DIGITS[number % len(_DIGITS)]
    while number >= len(_DIGITS):
        number = number // len(_DIGITS) - 1
        text = _DIGITS[number % len(_DIGITS)] + text
    return text
