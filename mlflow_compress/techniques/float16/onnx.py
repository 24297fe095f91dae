"""Half-precision storage of ONNX weights."""

import numpy as np
from onnx import ModelProto, TensorProto, helper, numpy_helper

from mlflow_compress.errors import ConfigError, TechniqueError
from mlflow_compress.techniques.base import Result, closest
from mlflow_compress.techniques.float16.settings import Float16Settings
from mlflow_compress.techniques.graph.walk import (
    clone,
    initializers,
    prepend_nodes,
    unique_name,
    value_names,
    walk_graphs,
)

__all__ = ["float16"]

_TINY = 64
"""Below so many elements a Cast node takes more bytes than it saves."""


def float16(model: ModelProto, settings: Float16Settings) -> Result:
    """Store float32 tensors as float16, each behind a Cast to float32.

    A tensor with a value beyond float16's range stays as it is, with a note.

    Raises:
        ConfigError: ``exclude`` names a tensor that the model does not have.
        TechniqueError: the model has no float32 tensors of at least 64 elements.
    """
    known = initializers(model)
    for name in settings.exclude:
        if name not in known:
            raise ConfigError(f"float16.exclude: there is no tensor {name!r}{closest(name, known)}")
    taken = value_names(model)
    outputs = {value.name for graph in walk_graphs(model.graph) for value in graph.output}
    origin: dict[str, str] = {}
    nodes, tensors, notes = [], [], []
    for tensor in model.graph.initializer:
        tensors.append(tensor)
        skip = tensor.name in settings.exclude or tensor.name in outputs
        if skip or tensor.data_type != TensorProto.FLOAT or np.prod(tensor.dims) < _TINY:
            continue
        array = numpy_helper.to_array(tensor)
        if np.abs(array).max() > np.finfo(np.float16).max:
            notes.append(f"{tensor.name} has values beyond float16's range and stays in float32")
            continue
        name = unique_name(f"{tensor.name}_half", taken)
        tensors[-1] = numpy_helper.from_array(array.astype(np.float16), name)
        origin[name] = tensor.name
        nodes.append(helper.make_node("Cast", [name], [tensor.name], to=TensorProto.FLOAT))
    if not nodes:
        raise TechniqueError(f"there are no float32 tensors of at least {_TINY} elements to halve")
    made = clone(model)
    del made.graph.initializer[:]
    made.graph.initializer.extend(tensors)
    prepend_nodes(made.graph, nodes)
    return Result(made, origin, tuple(notes))
