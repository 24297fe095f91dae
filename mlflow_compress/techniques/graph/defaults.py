"""Inputs that callers may leave out: while a technique works, what they default to is data.

A technique takes every initializer for a constant: it would fold such a default into the weights,
and a caller who gives another value would no longer be heard.
"""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from onnx import ModelProto, TensorProto, numpy_helper

from mlflow_compress.packed.onnx.graphs import default_inputs
from mlflow_compress.records import InputLayout
from mlflow_compress.rows import Rows
from mlflow_compress.techniques.base import Context
from mlflow_compress.techniques.graph.running import as_rows
from mlflow_compress.techniques.graph.walk import clone

__all__ = ["give_back", "take_away"]


def take_away(model: ModelProto, context: Context) -> tuple[ModelProto, Context, list[TensorProto]]:
    """Return a model without defaults, a context that gives the values instead, and the defaults.

    All of it is returned as it is where no input has a default.

    Raises:
        TechniqueError: the calibration inputs do not fit the model.
    """
    names = default_inputs(model)
    defaults = [tensor for tensor in model.graph.initializer if tensor.name in names]
    if not defaults:
        return model, context, []
    calibration = context.calibration
    if calibration:
        calibration = _with(as_rows(model, calibration), defaults)
    context = replace(
        context,
        calibration=calibration,
        source=None if context.source is None else _without(context.source, names),
        reference=None if context.reference is None else _without(context.reference, names),
    )
    return _without(model, names), context, defaults


def give_back(model: ModelProto, defaults: list[TensorProto]) -> ModelProto:
    """Return the model with the defaults of its inputs again."""
    if not defaults:
        return model
    model = clone(model)
    model.graph.initializer.extend(defaults)
    return model


def _without(model: ModelProto, names: frozenset[str]) -> ModelProto:
    model = clone(model)
    for position in reversed(range(len(model.graph.initializer))):
        if model.graph.initializer[position].name in names:
            del model.graph.initializer[position]
    return model


def _with(rows: Rows, defaults: list[TensorProto]) -> Rows:
    arrays: Mapping[str, np.ndarray] = {t.name: numpy_helper.to_array(t) for t in defaults}
    given = {name: array for name, array in arrays.items() if name not in rows}
    as_it_is = {name: InputLayout(axis=None) for name in given}
    layout = replace(rows.layout, inputs={**rows.layout.inputs, **as_it_is})
    return Rows(rows.inputs, {**rows.shared, **given}, layout)
