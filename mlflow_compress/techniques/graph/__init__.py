"""ONNX graphs as techniques see and change them: what authors of techniques may build on.

The names here are public: they stay, or warn for a release before they go.
"""

from mlflow_compress.techniques.graph.integers import (
    Integers,
    needed_version,
    raise_version,
    without_two_bits,
    write_integers,
)
from mlflow_compress.techniques.graph.layers import LinearLayer, add_biases, linear_layers
from mlflow_compress.techniques.graph.normal import normalize
from mlflow_compress.techniques.graph.opset import raise_opset
from mlflow_compress.techniques.graph.running import (
    ORT_ERRORS,
    as_rows,
    batches,
    check_calibration,
    fixed_batch,
    probe,
    run,
    session,
)
from mlflow_compress.techniques.graph.walk import (
    FLOATS,
    Use,
    Weight,
    attributes_of,
    channel_axis,
    clone,
    float_weights,
    initializers,
    node_label,
    set_initializer,
    sort_nodes,
    unique_name,
    uses,
    value_names,
    walk_graphs,
    walk_nodes,
)

__all__ = [
    "FLOATS",
    "ORT_ERRORS",
    "Integers",
    "LinearLayer",
    "Use",
    "Weight",
    "add_biases",
    "as_rows",
    "attributes_of",
    "batches",
    "channel_axis",
    "check_calibration",
    "clone",
    "fixed_batch",
    "float_weights",
    "initializers",
    "linear_layers",
    "needed_version",
    "node_label",
    "normalize",
    "probe",
    "raise_opset",
    "raise_version",
    "run",
    "session",
    "set_initializer",
    "sort_nodes",
    "unique_name",
    "uses",
    "value_names",
    "walk_graphs",
    "walk_nodes",
    "without_two_bits",
    "write_integers",
]
