"""Static int8 quantization in QDQ form, by ``onnxruntime.quantization``."""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from onnx import ModelProto

from mlflow_compress.errors import ConfigError, TechniqueError
from mlflow_compress.techniques.base import Context, Result, closest
from mlflow_compress.techniques.channels.equalize import equalize
from mlflow_compress.techniques.graph.running import batches, check_calibration
from mlflow_compress.techniques.graph.walk import (
    attributes_of,
    clone,
    not_single,
)
from mlflow_compress.techniques.quantize.calibration import Reader
from mlflow_compress.techniques.quantize.finishing import finished, nothing, refuse_quantized, tidy
from mlflow_compress.techniques.quantize.preparing import (
    observed,
    prepared,
    say_types,
    unfit_nodes,
)
from mlflow_compress.techniques.quantize.quantizers import TAKEN, static
from mlflow_compress.techniques.quantize.sensitivity import correct_biases, layer_losses, saturation
from mlflow_compress.techniques.quantize.settings import QuantizeSettings

__all__ = ["prepare", "quantize"]

_ENOUGH = 0.01
"""With ``keep_float: -1``, the sum of the changes that may be left."""

_FEW = 4
"""Rows that are looked at for masks."""


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
        raise nothing(model)
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
    tidy(made, given)
    result = finished(given, made, ready)
    if not settings.reduce_range:
        notes = (*notes, *saturation(result.model, calibration))
    return replace(result, notes=(*notes, *result.notes))


def _leave_given_outputs(model: ModelProto) -> None:
    """Take inputs from the outputs, in place: a quantizer makes a circle of them."""
    given = {value.name for value in model.graph.input}
    kept = [value for value in clone(model).graph.output if value.name not in given]
    del model.graph.output[:]
    model.graph.output.extend(kept)


def _refuse(model: ModelProto, settings: QuantizeSettings) -> None:
    refuse_quantized(model)
    known = [node.name for node in model.graph.node]
    for name in settings.exclude:
        if name not in known:
            raise ConfigError(f"quantize.exclude: no node {name!r}{closest(name, known)}")
