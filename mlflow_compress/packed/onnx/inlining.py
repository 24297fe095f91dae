"""Local functions written out where they are called."""

from onnx import ModelProto, inliner

from mlflow_compress.packed.onnx.graphs import with_nested

__all__ = ["inline_functions"]


def inline_functions(model: ModelProto, *, convert_version: bool = False) -> ModelProto:
    """Return a copy of a model without local functions.

    onnx's inliner leaves out an attribute that a call does not give, and with it the default that
    the function declares; so the calls are made to give it.

    Args:
        model: the model.
        convert_version: bring functions of another opset to the model's.

    Raises:
        RuntimeError, onnx's own: a function cannot be converted.
    """
    made = ModelProto()
    made.CopyFrom(model)
    if not made.functions:
        return made
    defaults = {(f.domain, f.name, f.overload): f.attribute_proto for f in made.functions}
    for nodes in (made.graph.node, *(function.node for function in made.functions)):
        for node in with_nested(nodes):
            given = {attribute.name for attribute in node.attribute}
            for attribute in defaults.get((node.domain, node.op_type, node.overload), ()):
                if attribute.name not in given:
                    node.attribute.add().CopyFrom(attribute)
    return inliner.inline_local_functions(made, convert_version=convert_version)
