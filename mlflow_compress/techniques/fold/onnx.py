"""Folding of ONNX graphs by onnxruntime's basic optimizations, checked on real or random inputs."""

import hashlib
import tempfile
from pathlib import Path

import onnx
import onnxruntime as ort
from onnx import ModelProto, TensorProto, helper

from mlflow_compress.base.ort_text import ort_line
from mlflow_compress.errors import TechniqueError
from mlflow_compress.packed.ort_errors import ORT_ERRORS
from mlflow_compress.techniques.base import Context, Result
from mlflow_compress.techniques.channels.biases import pass_biases_on
from mlflow_compress.techniques.fold.settings import FoldSettings
from mlflow_compress.techniques.graph.names import shorten_names
from mlflow_compress.techniques.graph.normal import normalize
from mlflow_compress.techniques.graph.running import check_unchanged
from mlflow_compress.techniques.graph.walk import clone, initializers, walk_graphs, walk_nodes

__all__ = ["fold", "share_duplicates"]


def fold(model: ModelProto, settings: FoldSettings, context: Context) -> Result:
    """Fold constants and store equal tensors once; falls back to the latter when it must.

    Raises:
        TechniqueError: onnxruntime does not take the model, or outputs change.
    """
    notes: list[str] = []
    made = model
    if settings.constants:
        folded = _optimized(model, context.work_dir)
        reason = _refusal(model, folded)
        if reason:
            notes.append(f"constants were not folded: {reason}")
        else:
            made = folded
    if settings.biases:
        made = normalize(pass_biases_on(made))
    if settings.duplicates:
        made = share_duplicates(made)
    if settings.names:
        made = shorten_names(made)
    check_unchanged(model, made, context.calibration, context.seed, "folding")
    return Result(made, _origin(model, made), tuple(notes))


def share_duplicates(model: ModelProto) -> ModelProto:
    """Return the model with equal initializers stored once, under the first one's name."""
    model = clone(model)
    kept: dict[str, str] = {}
    renamed: dict[str, str] = {}
    outputs = {value.name for graph in walk_graphs(model.graph) for value in graph.output}
    for tensor in model.graph.initializer:
        if tensor.name in outputs:
            continue
        anonymous = TensorProto()
        anonymous.CopyFrom(tensor)
        anonymous.name = ""
        digest = hashlib.sha256(anonymous.SerializeToString(deterministic=True)).hexdigest()
        first = kept.setdefault(digest, tensor.name)
        if first != tensor.name:
            renamed[tensor.name] = first
    for node in walk_nodes(model.graph):
        for index, name in enumerate(node.input):
            if name in renamed:
                node.input[index] = renamed[name]
    left = [t for t in clone(model).graph.initializer if t.name not in renamed]
    del model.graph.initializer[:]
    model.graph.initializer.extend(left)
    return model


def _optimized(model: ModelProto, folder: Path | None) -> ModelProto:
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
    with tempfile.TemporaryDirectory(dir=folder) as place:
        path = Path(place, "folded.onnx")
        options.optimized_model_filepath = str(path)
        try:
            ort.InferenceSession(
                model.SerializeToString(), options, providers=["CPUExecutionProvider"]
            )
        except ORT_ERRORS as error:
            raise TechniqueError(
                f"onnxruntime does not load the model: {ort_line(error)}"
            ) from error
        made = onnx.load(path)
    used = {node.domain for node in walk_nodes(made.graph)}
    imports = [
        (e.domain, e.version) for e in made.opset_import if e.domain in used | {"", "ai.onnx"}
    ]
    del made.opset_import[:]
    made.opset_import.extend(helper.make_opsetid(*entry) for entry in imports)
    made.producer_name, made.producer_version = model.producer_name, model.producer_version
    return normalize(made)


def _refusal(model: ModelProto, made: ModelProto) -> str:
    """Say why a folded model must not be used, or return an empty text."""
    known = {node.domain for node in walk_nodes(model.graph)}
    for node in walk_nodes(made.graph):
        if node.domain not in known | {"", "ai.onnx"}:
            return f"onnxruntime put its own operator {node.op_type} in"
    casts = [sum(n.op_type == "Cast" for n in walk_nodes(one.graph)) for one in (model, made)]
    if casts[1] > casts[0]:  # behind them no technique finds the weights
        return "onnxruntime casts what it has no operators for, as float16, to what it computes in"
    before, after = len(model.SerializeToString()), len(made.SerializeToString())
    if after > before * 1.02 + 4096:
        return f"the model would grow from {before} to {after} bytes"
    return ""


def _origin(model: ModelProto, made: ModelProto) -> dict[str, str]:
    """Fusions name a new weight after the old one: ``ConvBnFusion_W_conv1.weight``."""
    known = sorted(initializers(model), key=len, reverse=True)
    origin = {}
    for name in initializers(made):
        source = next((old for old in known if old != name and name.endswith(old)), None)
        if name not in known and source is not None:
            origin[name] = source
    return origin
