"""Static int8 quantization in QDQ form, by ``onnxruntime.quantization``."""

import logging
import tempfile
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx
import onnxruntime as ort
from onnx import ModelProto, NodeProto, TensorProto
from onnxruntime.quantization import (
    CalibrationMethod,
    QuantFormat,
    QuantType,
    calibrate,
    quantize_dynamic,
    quantize_static,
)

from mlflow_compress.errors import ConfigError, TechniqueError
from mlflow_compress.techniques.base import Context, Result, closest
from mlflow_compress.techniques.dynamic import DynamicSettings
from mlflow_compress.techniques.onnx_calibration import Reader, fine_histograms
from mlflow_compress.techniques.onnx_equalize import equalize
from mlflow_compress.techniques.onnx_fold import share_duplicates
from mlflow_compress.techniques.onnx_graph import (
    clone,
    float_weights,
    initializers,
    node_label,
    sort_nodes,
    walk_graphs,
    walk_nodes,
    weight_inputs,
)
from mlflow_compress.techniques.onnx_int8 import Prepared, prepared, unfit_nodes
from mlflow_compress.techniques.onnx_run import ORT_ERRORS, batches, check_calibration
from mlflow_compress.techniques.onnx_sensitivity import correct_biases, layer_losses
from mlflow_compress.techniques.quantize import QuantizeSettings

__all__ = ["prepare", "quantize", "quantize_dynamically", "quantized_origin"]

_METHODS = {
    "minmax": CalibrationMethod.MinMax,
    "percentile": CalibrationMethod.Percentile,
    "entropy": CalibrationMethod.Entropy,
}
_ENOUGH = 0.01
"""With ``keep_float: -1``, the sum of the changes that may be left."""

_FEW, _NAMED = 4, 3
"""Rows that are looked at for masks; layers that a note names."""

_QUANTIZED_OPS = ("QuantizeLinear", "DequantizeLinear", "QLinearConv", "QLinearMatMul",
                  "MatMulInteger", "ConvInteger", "DynamicQuantizeLinear", "DynamicQuantizeMatMul",
                  "MatMulNBits", "DynamicQuantizeLSTM")  # fmt: skip

_FAILURES: tuple[type[Exception], ...] = (
    *ORT_ERRORS,
    RuntimeError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    AssertionError,
)
"""onnxruntime's tools raise whatever they meet."""

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
        kept, note = _kept_in_float(layer_losses(model, settings, calibration), settings)
        settings = replace(settings, exclude=(*settings.exclude, *kept))
        notes = (*notes, note)
    return model, replace(settings, equalize=False, keep_float=0), notes


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
    unfit = unfit_nodes(ready.model, next(batches(ready.model, calibration, size=_FEW)))
    left = dict.fromkeys((*settings.exclude, *ready.exclude, *unfit))
    settings, named = replace(settings, exclude=tuple(left)), ready.model
    if settings.correct_bias:
        named = correct_biases(named, settings, calibration)
    reader = Reader(model, calibration, settings.rows)
    with tempfile.TemporaryDirectory(dir=context.work_dir) as folder, _quiet():
        path = Path(folder, "quantized.onnx")
        _run(named, path, reader, settings)
        made = onnx.load(path)
    _tidy(made, given)
    made = _finished(given, made, ready)
    return replace(made, notes=(*notes, *made.notes))


def quantize_dynamically(model: ModelProto, settings: DynamicSettings, context: Context) -> Result:
    """Quantize the weights of MatMul and Gemm to 8 bits, and their activations at run time.

    Raises:
        TechniqueError: the model is quantized already, has no such weights in its main graph, or
            is refused by onnxruntime.
    """
    _refuse_quantized(model)
    ready = prepared(model)
    left = (*ready.exclude, *_batched(ready.model))
    with tempfile.TemporaryDirectory(dir=context.work_dir) as folder, _quiet():
        path = Path(folder, "quantized.onnx")
        try:
            quantize_dynamic(
                ready.model,
                path,
                op_types_to_quantize=["MatMul"],
                nodes_to_exclude=list(left),
                per_channel=settings.per_channel,
                reduce_range=settings.reduce_range,
                weight_type=QuantType.QInt8,
                extra_options={"MatMulConstBOnly": True},
            )
        except _FAILURES as error:
            raise _failed(error) from error
        made = onnx.load(path)
    _tidy(made, model)
    return _finished(model, made, ready)


def _batched(model: ModelProto) -> list[str]:
    """Return the nodes whose weight is a stack of matrices: it is rounded along another axis."""
    held = initializers(model)
    return [
        node.name
        for node in model.graph.node
        if node.op_type == "MatMul" and node.input[1] in held and len(held[node.input[1]].dims) > 2
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


def _run(model: ModelProto, path: Path, reader: Reader, settings: QuantizeSettings) -> None:
    options: dict[str, Any] = {}
    if settings.method == "minmax":
        options["CalibMaxIntermediateOutputs"] = reader.chunk
    if settings.method == "percentile":
        options["CalibPercentile"] = settings.percentile
    with fine_histograms(settings.method):
        _quantized(model, path, reader, settings, options)


def _quantized(
    model: ModelProto,
    path: Path,
    reader: Reader,
    settings: QuantizeSettings,
    options: dict[str, Any],
) -> None:
    for adjust in (True, False):
        if not adjust:
            # its adjustment of scales for biases near zero trips over per-channel scales
            options["QDQDisableWeightAdjustForInt32Bias"] = True
            reader.rewind()
        try:
            quantize_static(
                clone(model),  # it moves the weights of the model it is given into files
                path,
                reader,
                quant_format=QuantFormat.QDQ,
                per_channel=settings.per_channel,
                reduce_range=settings.reduce_range,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
                nodes_to_exclude=list(settings.exclude),
                calibrate_method=_METHODS[settings.method],
                extra_options=options,
            )
        except _FAILURES as error:
            if adjust and "truth value of an array" in str(error):
                continue
            raise _failed(error) from error
        return


def _failed(error: Exception) -> TechniqueError:
    first = (str(error).strip() or type(error).__name__).splitlines()[0]
    return TechniqueError(f"onnxruntime.quantization fails on this model: {first}")


def _finished(model: ModelProto, made: ModelProto, ready: Prepared) -> Result:
    made = share_duplicates(made)
    if not any(t.data_type in (TensorProto.INT8, TensorProto.UINT8) for t in _new(model, made)):
        raise TechniqueError("onnxruntime found no weights to quantize in the main graph")
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

    The tools write into the metadata; class names and the like are the model's own.
    """
    del model.graph.value_info[:]
    del model.metadata_props[:]
    model.metadata_props.extend(given.metadata_props)
    sort_nodes(model.graph)


def _new(source: ModelProto, made: ModelProto) -> list[TensorProto]:
    known = initializers(source)
    return [tensor for tensor in made.graph.initializer if tensor.name not in known]


_lock = threading.Lock()
_depth = 0


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep onnxruntime.quantization's advice and prints from the user's terminal.

    The advice goes to the root logger: only records logged on it directly are held back, and a
    handler is lent to it, because ``logging.warning`` would install one for good when it has none.
    The prints are taken from the one module that makes them, so that nobody else's are lost.
    """
    global _depth
    root, lent = logging.getLogger(), logging.NullHandler()
    with _lock:
        _depth += 1
        root.disabled = True
        root.addHandler(lent)
        ort.set_default_logger_severity(4)
        vars(calibrate)["print"] = _no_print
    try:
        yield
    finally:
        with _lock:
            _depth -= 1
            root.disabled = _depth > 0
            root.removeHandler(lent)
            if not _depth:
                del vars(calibrate)["print"]
                ort.set_default_logger_severity(2)


def _no_print(*values: object, **options: object) -> None:
    """Print nothing."""
