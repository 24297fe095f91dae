"""Any ONNX model through Neural Compressor's static PT2E quantization, and out as QDQ.

The module is captured by ``torch.export``, so what comes back is a new graph, exported with the
names of the model's inputs and outputs. The exporter writes weights as float32 behind a
QuantizeLinear and a Clip; they are computed once, so that the file holds 8-bit integers.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from onnx import ModelProto, TensorProto, helper, numpy_helper

from mlflow_compress.errors import ConfigError, TechniqueError
from mlflow_compress.techniques import Context, Result, closest, normalize
from mlflow_compress.techniques.graph import (
    attributes_of,
    batches,
    check_calibration,
    clone,
    fixed_batch,
    initializers,
    probe,
    session,
    unique_name,
    uses,
)
from mlflow_compress.techniques.training import Interpreter, check_interpreter, quiet_export
from mlflow_compress_neural_compressor.library import FAILURES, failed, library, quiet
from mlflow_compress_neural_compressor.qdq import close_layers
from mlflow_compress_neural_compressor.settings import StaticSettings
from mlflow_compress_neural_compressor.torch_rows import weight_layers

__all__ = ["quantize_static"]

_BATCH = 32

_ARGUMENTS = {
    "Expand": {1: "shape"},
    "Pad": {1: "pads", 3: "axes"},
    "Reshape": {1: "shape"},
    "Slice": {1: "starts", 2: "ends", 3: "axes", 4: "steps"},
    "Split": {1: "split"},
    "Squeeze": {1: "axes"},
    "Unsqueeze": {1: "axes"},
}
"""Inputs that are whole numbers, by the attribute's name that they had in older operators."""


def quantize_static(model: ModelProto, settings: StaticSettings, context: Context) -> Result:
    """Quantize weights and activations to 8 bits.

    Raises:
        ConfigError: ``exclude`` names no weight of a layer.
        TechniqueError: calibration inputs are missing; an operator cannot be run in PyTorch; the
            model cannot be captured; or the library fails.
    """
    inputs = check_calibration(model, context.calibration)
    if fixed_batch(model) is not None:
        raise TechniqueError(
            "neural_compressor_static: the model's batch size is fixed; export it with an open one"
        )
    if inputs.shared or inputs.layout.unusual or inputs.is_ragged:
        raise TechniqueError(
            "neural_compressor_static: inputs have to be rows of one shape along axis 0"
        )
    module = Interpreter(_plain(model)).eval()
    check_interpreter(module, model, probe(model, inputs, context.seed))
    layers = {name: key for name, (key, _) in weight_layers(module).items()}
    for name in settings.exclude:
        if name not in layers:
            raise ConfigError(
                f"neural_compressor_static.exclude: {name!r} is no weight of a layer"
                f"{closest(name, layers)}"
            )
    with quiet(), quiet_export(), torch.no_grad():
        made = _exported(_converted(module, layers, inputs, model, settings), module, inputs)
    parameters = {id(values): name for name, values in module.trained().items()}
    names = {name: parameters[id(values)] for name, values in module.named_parameters()}
    folded = _integer_weights(made, names)
    made, biases = close_layers(_with_names(folded.model, names), inputs, settings.rows)
    made = _ends(normalize(made), model)
    if not any(tensor.data_type == TensorProto.INT8 for tensor in made.graph.initializer):
        raise TechniqueError("the library quantized no layer of this model")
    session(made)  # what onnxruntime refuses ends here, not on a device
    held = initializers(made)
    origin = {new: old for new, old in {**folded.origin, **biases}.items() if new in held}
    return Result(made, origin)


def _plain(model: ModelProto) -> ModelProto:
    """Turn shapes and axes into attributes: ``torch.export`` does not see through constants.

    What comes out is for the interpreter, and is not valid ONNX.
    """
    made = clone(model)
    held = initializers(made)
    for node in made.graph.node:
        names = _ARGUMENTS.get(node.op_type, {})
        if node.op_type.startswith("Reduce"):
            names = {1: "axes"}
        for index, name in names.items():
            if index < len(node.input) and node.input[index] in held:
                values = numpy_helper.to_array(held[node.input[index]]).ravel().tolist()
                node.attribute.append(helper.make_attribute(name, values, attr_type=_INTS))
                node.input[index] = ""
    return made


_INTS = 7
"""``AttributeProto.INTS``: an empty list does not tell its type."""


def _tensors(module: Interpreter, rows: Mapping[str, np.ndarray]) -> tuple[torch.Tensor, ...]:
    return tuple(torch.from_numpy(np.ascontiguousarray(rows[name])) for name in module.inputs)


def _converted(
    module: Interpreter,
    layers: Mapping[str, str],
    inputs: Mapping[str, np.ndarray],
    model: ModelProto,
    settings: StaticSettings,
) -> Any:
    """Return the quantized module."""
    nc = library()
    from neural_compressor.torch.export import export

    config = nc.StaticQuantConfig(
        act_algo=settings.method,
        w_granularity="per_channel" if settings.per_channel else "per_tensor",
    )
    for name in settings.exclude:
        plain = nc.StaticQuantConfig(w_dtype="fp32", act_dtype="fp32")
        config.set_local(f"layers.{layers[name]}", plain)
    example = _tensors(module, {name: rows[:4] for name, rows in inputs.items()})
    open_batch = torch.export.Dim("batch")
    shapes = (tuple({0: open_batch} for _ in example),)
    try:
        captured = export(module, example, dynamic_shapes=shapes)
        prepared = nc.prepare(captured, config, example_inputs=example)
        for batch in batches(model, inputs, size=_BATCH, rows=settings.rows):
            prepared(*_tensors(module, batch))
        return nc.convert(prepared)
    except FAILURES as error:
        raise failed(error) from error


def _exported(made: Any, module: Interpreter, inputs: Mapping[str, np.ndarray]) -> ModelProto:
    """Export without the check against PyTorch: values between two integers may go either way."""
    example = _tensors(module, {name: rows[:4] for name, rows in inputs.items()})
    open_batch = torch.export.Dim("batch")
    try:
        program = torch.onnx.export(
            made,
            example,
            dynamo=True,
            external_data=False,
            dynamic_shapes=tuple({0: open_batch} for _ in example),
            input_names=module.inputs,
            output_names=module.outputs,
            verbose=False,
        )
    except (torch.onnx.OnnxExporterError, *FAILURES) as error:
        raise failed(error) from error
    exported: ModelProto = program.model_proto
    return exported


def _integer_weights(model: ModelProto, names: Mapping[str, str]) -> Result:
    """Compute each QuantizeLinear of a weight, and the Clip behind it, once.

    Args:
        model: what the exporter made; changed in place.
        names: the source's initializers, by the names that the exporter gave them.
    """
    held, where = initializers(model), uses(model)
    taken = set(held) | set(names.values())
    origin: dict[str, str] = {}
    gone: list[str] = []
    for node in model.graph.node:
        if node.op_type != "QuantizeLinear" or node.input[0] not in held:
            continue
        source = names.get(node.input[0], node.input[0])
        low, high, last = -128, 127, node
        users = where[node.output[0]]
        if len(users) == 1 and users[0].node.op_type == "Clip":
            last = users[0].node
            low, high = (int(numpy_helper.to_array(held[name])) for name in last.input[1:3])
        parts = [numpy_helper.to_array(held[name]) for name in node.input]
        weight, scale, zero = parts
        shape = [1] * weight.ndim
        if scale.ndim:
            shape[attributes_of(node).get("axis", 1)] = -1
        symbols = np.rint(weight / scale.reshape(shape)) + zero.reshape(shape)
        arrays = {
            "quantized": np.clip(symbols, low, high).astype(np.int8),
            "scale": scale,
            "zero_point": zero.astype(np.int8),
        }
        made = {part: unique_name(f"{source}_{part}", taken) for part in arrays}
        origin |= dict.fromkeys(made.values(), source)
        model.graph.initializer.extend(
            numpy_helper.from_array(array, made[part]) for part, array in arrays.items()
        )
        for user in where[last.output[0]]:
            user.node.input[:] = list(made.values())
        gone += [node.output[0], last.output[0]]
    kept = [node for node in model.graph.node if node.output[0] not in gone]
    made = clone(model)
    del made.graph.node[:]
    made.graph.node.extend(kept)
    return Result(made, origin)


def _with_names(model: ModelProto, names: Mapping[str, str]) -> ModelProto:
    """Give what stayed in float the names of the source."""
    for tensor in model.graph.initializer:
        tensor.name = names.get(tensor.name, tensor.name)
    for node in model.graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]
    return model


def _ends(model: ModelProto, source: ModelProto) -> ModelProto:
    """Give the model the inputs and outputs of its source, types and names of axes included."""
    for mine, theirs in ((model.graph.input, source.graph.input),
                         (model.graph.output, source.graph.output)):  # fmt: skip
        if [value.name for value in mine] != [value.name for value in theirs]:
            raise TechniqueError(
                "neural_compressor_static: the export lost an input or output: "
                f"{', '.join(v.name for v in theirs)} became {', '.join(v.name for v in mine)}"
            )
        del mine[:]
        mine.extend(theirs)
    return model
