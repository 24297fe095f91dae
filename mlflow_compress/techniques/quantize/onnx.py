"""Static int8 quantization in QDQ form, by ``onnxruntime.quantization``."""

from collections.abc import Iterable, Mapping
from dataclasses import replace

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto

from mlflow_compress.errors import ConfigError, TechniqueError
from mlflow_compress.techniques.base import Context, Result, closest
from mlflow_compress.techniques.channels.equalize import equalize
from mlflow_compress.techniques.dynamic import DynamicSettings
from mlflow_compress.techniques.fold.onnx import share_duplicates
from mlflow_compress.techniques.graph.run import batches, check_calibration
from mlflow_compress.techniques.graph.walk import (
    attributes_of,
    clone,
    float_weights,
    initializers,
    node_label,
    not_single,
    sort_nodes,
    walk_graphs,
    walk_nodes,
    weight_inputs,
)
from mlflow_compress.techniques.quantize import QuantizeSettings
from mlflow_compress.techniques.quantize.calibration import Reader
from mlflow_compress.techniques.quantize.preparing import (
    Prepared,
    observed,
    prepared,
    say_types,
    unfit_nodes,
)
from mlflow_compress.techniques.quantize.quantizers import TAKEN, dynamic, static
from mlflow_compress.techniques.quantize.sensitivity import correct_biases, layer_losses, saturation

__all__ = ["prepare", "quantize", "quantize_dynamically", "quantized_origin"]

_ENOUGH = 0.01
"""With ``keep_float: -1``, the sum of the changes that may be left."""

_FEW, _NAMED = 4, 3
"""Rows that are looked at for masks; layers that a note names."""

_QUANTIZED_OPS = ("QuantizeLinear", "DequantizeLinear", "QLinearConv", "QLinearMatMul",
                  "MatMulInteger", "ConvInteger", "DynamicQuantizeLinear", "DynamicQuantizeMatMul",
                  "MatMulNBits", "DynamicQuantizeLSTM")  # fmt: skip

_PARTS = ("_quantized_scale", "_quantized_zero_point", "_quantized", "_scale", "_zero_point")

_SUFFIXES = (*_PARTS, *(f"_Transposed{part}" for part in _PARTS))


def prepare(
    model: ModelProto, settings: QuantizeSettings, context: Context
) -> tuple[ModelProto, QuantizeSettings, tuple[str, ...]]:
    """Equalize, and choose the layers that stay in float, as far as the settings ask for it.

    Returns:
        The model to quantize, with settings that ask for no more of it, and notes.

    Raises:
        ConfigError: as :func:`quantize`, or ``keep_float`` leaves nothing to quantize.
        TechniqueError: as :func:`quantize`.
    """
    if not settings.equalize and not settings.keep_float:
        return model, settings, ()
    calibration = check_calibration(model, context.calibration)
    _refuse(model, settings)
    ready = prepared(model)
    model, settings = ready.model, replace(settings, exclude=(*settings.exclude, *ready.exclude))
    notes: tuple[str, ...] = ()
    if settings.equalize:
        model, notes = equalize(model, context)
    if settings.keep_float:
        settings = _without_unfit(model, settings, calibration)
        kept, note = _kept_in_float(layer_losses(model, settings, calibration), settings)
        settings = replace(settings, exclude=(*settings.exclude, *kept))
        notes = (*notes, note)
    return model, replace(settings, equalize=False, keep_float=0), notes


def _without_unfit(
    model: ModelProto, settings: QuantizeSettings, calibration: Mapping[str, np.ndarray]
) -> QuantizeSettings:
    """Exclude all nodes of a prepared model that cannot be quantized, and say its values' types.

    Raises:
        TechniqueError: no node is left.
    """
    values = observed(model, next(batches(model, calibration, size=_FEW)))
    say_types(model, values)
    left, unfit = settings.exclude, unfit_nodes(model, values)
    if settings.per_channel:
        left = (*left, *_grouped(model))
    found = {node.name for node in model.graph.node if node.op_type in TAKEN
             and values.keys() & (*node.input, *node.output)}.difference(left)  # fmt: skip
    if found and found.issubset(unfit) and not not_single(model):
        raise TechniqueError(
            "on the calibration rows every layer reads or gives values that int8 cannot stand for: "
            "they are not finite, beyond 1e37, or a mask's beside small ones (mend the rows in "
            "data.calibration, or leave this step out)"
        )
    if not found.difference(unfit):
        raise _nothing(model)
    return replace(settings, exclude=tuple(dict.fromkeys((*left, *unfit))))


def _grouped(model: ModelProto) -> list[str]:
    """Return the nodes with a bias for more channels than their weight has scales."""
    return [
        node.name
        for node in model.graph.node
        if node.op_type == "ConvTranspose"
        and attributes_of(node).get("group", 1) > 1
        and len(node.input) > 2
    ]


def _nothing(model: ModelProto) -> TechniqueError:
    """Say why nothing of a model is quantized, and what to do."""
    told = "onnxruntime found no weights to quantize in the main graph"
    main = {name for node in model.graph.node for name in node.output}
    nodes = [weight.uses[0].node for weight in float_weights(model)]
    inside = [node_label(node) for node in nodes if not main.intersection(node.output)]
    advice = not_single(model)
    if inside and not advice:
        advice = f"{inside[0]} is inside a node (weight_only takes its weight too)"
    if advice:
        return TechniqueError(f"{told}: {advice}")
    return TechniqueError(f"{told} (leave this step out)")


def _kept_in_float(
    losses: Mapping[str, float], settings: QuantizeSettings
) -> tuple[list[str], str]:
    worst = sorted(losses, key=lambda name: -losses[name])
    count = settings.keep_float
    if count >= len(worst):
        raise ConfigError(
            f"quantize.keep_float: {count} leaves nothing to quantize, the model has "
            f"{len(worst)} layers that could be"
        )
    if count < 0:
        most = len(worst) // 2
        left = (sum(losses[name] for name in worst[k:]) for k in range(most))
        count = next((k for k, loss in enumerate(left) if loss <= _ENOUGH), most)
    kept = worst[:count]
    told = ", ".join(f"{name} ({losses[name]:.2g})" for name in kept) or "no layer"
    return kept, f"{told} stays in float: its quantization alone changes the outputs that much"


def quantize(model: ModelProto, settings: QuantizeSettings, context: Context) -> Result:
    """Quantize weights and activations to 8 bits.

    Raises:
        ConfigError: ``exclude`` names a node that the model does not have.
        TechniqueError: no calibration inputs, the model is quantized already, has nothing to
            quantize in its main graph, or is refused by onnxruntime.
    """
    calibration = check_calibration(model, context.calibration)
    _refuse(model, settings)
    given = model
    model, settings, notes = prepare(model, settings, context)
    ready = prepared(model)
    settings = replace(settings, exclude=(*settings.exclude, *ready.exclude))
    named, settings = ready.model, _without_unfit(ready.model, settings, calibration)
    if settings.correct_bias:
        named = correct_biases(named, settings, calibration)
    _leave_given_outputs(named)
    rows = Reader(model, calibration, settings.rows)
    made = static(named, rows, settings, context.work_dir)
    _tidy(made, given)
    result = _finished(given, made, ready)
    if not settings.reduce_range:
        notes = (*notes, *saturation(result.model, calibration))
    return replace(result, notes=(*notes, *result.notes))


def _leave_given_outputs(model: ModelProto) -> None:
    """Take inputs from the outputs, in place: a quantizer makes a circle of them."""
    given = {value.name for value in model.graph.input}
    kept = [value for value in clone(model).graph.output if value.name not in given]
    del model.graph.output[:]
    model.graph.output.extend(kept)


def quantize_dynamically(model: ModelProto, settings: DynamicSettings, context: Context) -> Result:
    """Quantize the weights of MatMul and Gemm to 8 bits, and their activations at run time.

    Raises:
        TechniqueError: the model is quantized already, has no such weights in its main graph, or
            is refused by onnxruntime.
    """
    _refuse_quantized(model)
    ready = prepared(model)
    left = (*ready.exclude, *_not_dynamic(ready.model))
    left = (*left, *(f"{name}_MatMul" for name in left))  # what the tool makes of a Gemm
    made = dynamic(ready.model, settings, left, context.work_dir)
    _tidy(made, model)
    return _finished(model, made, ready)


def _not_dynamic(model: ModelProto) -> list[str]:
    """Return the nodes whose weight is a vector, is rounded along another axis, or is not float32.

    The axis is another one in a stack of matrices.
    """
    held = initializers(model)
    return [
        node.name
        for node in model.graph.node
        if node.op_type in ("MatMul", "Gemm")
        and (weight := held.get(node.input[1])) is not None
        and (len(weight.dims) != 2 or 0 in weight.dims or weight.data_type != TensorProto.FLOAT)
    ]


def quantized_origin(
    source: ModelProto, made: ModelProto, renamed: Mapping[str, str] | None = None
) -> dict[str, str]:
    """Map each initializer that quantization made from a source's weight to that weight.

    Args:
        source: the model before it.
        made: the quantized model.
        renamed: the source's initializer of others that were quantized in its place.
    """
    known = {name: name for name in initializers(source)} | dict(renamed or {})
    origin = {}
    for tensor in _new(source, made):
        ends = ("", *_SUFFIXES)
        stems = (tensor.name.removesuffix(end) for end in ends if tensor.name.endswith(end))
        stem = next((stem for stem in stems if stem in known), None)
        if stem is not None:
            origin[tensor.name] = known[stem]
    return origin


def _finished(model: ModelProto, made: ModelProto, ready: Prepared) -> Result:
    made = share_duplicates(made)
    if not any(t.data_type in (TensorProto.INT8, TensorProto.UINT8) for t in _new(model, made)):
        raise _nothing(model)
    return Result(made, quantized_origin(model, made, ready.origin), _left_in_float(made))


def _left_in_float(made: ModelProto) -> tuple[str, ...]:
    """Say which layers keep weights in float, and where they are."""
    held = {weight.name for weight in float_weights(made)}

    def layers(nodes: Iterable[NodeProto]) -> list[str]:
        return [
            node_label(node)
            for node in nodes
            if any(node.input[i] in held for i in weight_inputs(node) if i < len(node.input))
        ]

    inside = [node for graph in list(walk_graphs(made.graph))[1:] for node in graph.node]
    told = []
    for where, some in (("", layers(made.graph.node)), (" inside nodes", layers(inside))):
        if some:
            more = f" and {len(some) - _NAMED} more" if len(some) > _NAMED else ""
            told.append(f"weights stay in float{where}: {', '.join(some[:_NAMED])}{more}")
    return tuple(told)


def _refuse_quantized(model: ModelProto) -> None:
    for node in walk_nodes(model.graph):
        if node.op_type in _QUANTIZED_OPS:
            raise TechniqueError(
                f"the model is quantized already: node {node.name or node.output[0]!r} is a "
                f"{node.op_type}"
            )


def _refuse(model: ModelProto, settings: QuantizeSettings) -> None:
    _refuse_quantized(model)
    known = [node.name for node in model.graph.node]
    for name in settings.exclude:
        if name not in known:
            raise ConfigError(f"quantize.exclude: no node {name!r}{closest(name, known)}")


def _tidy(model: ModelProto, given: ModelProto) -> None:
    """Drop annotations, which cost bytes in small files, and put the nodes in order again.

    The tools write into the metadata; class names and the like are the model's own. Outputs are as
    they were.
    """
    del model.graph.value_info[:]
    del model.graph.output[:]
    model.graph.output.extend(given.graph.output)
    del model.metadata_props[:]
    model.metadata_props.extend(given.metadata_props)
    sort_nodes(model.graph)


def _new(source: ModelProto, made: ModelProto) -> list[TensorProto]:
    known = initializers(source)
    return [tensor for tensor in made.graph.initializer if tensor.name not in known]
