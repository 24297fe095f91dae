"""Tells what each output of a model is, by its graph and by what it gives.

A kind is only told where it is certain. Everything else is *values*, which is the strictest: an
output of scores that is taken for values costs some bytes, one of values that is taken for scores
costs the model.
"""

import ast
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import onnx

from mlflow_compress.base.json_text import parse_json
from mlflow_compress.base.spelling import hint
from mlflow_compress.errors import ConfigError
from mlflow_compress.measure.outputs.given import as_given
from mlflow_compress.measure.outputs.reach import reached_by_inputs, reached_by_weights
from mlflow_compress.measure.outputs.values import channel_axis
from mlflow_compress.records import Kind, Output
from mlflow_compress.rows import Array

__all__ = ["Evidence", "tell_outputs"]

_TRANSPARENT = frozenset(
    ("Identity", "Cast", "Reshape", "Squeeze", "Unsqueeze", "Flatten", "Transpose", "Dropout")
)
"""Operators that change how values are written, not what they say."""

_DECISIONS = frozenset(
    ("Softmax", "LogSoftmax", "Sigmoid", "HardSigmoid", "ArgMax", "TopK", "Hardmax", "ZipMap")
)
"""Operators that write one decision in another form: their input is what was decided."""

_CLASS_NUMBERS = frozenset(
    ("ArgMax", "ArgMin", "Hardmax", "LabelEncoder", "LinearClassifier", "SVMClassifier",
     "TreeEnsembleClassifier")
)  # fmt: skip
_CLASS_SCORES = frozenset(("LinearClassifier", "SVMClassifier", "TreeEnsembleClassifier"))
_RECURRENT = frozenset(("LSTM", "GRU", "RNN"))
_NAMES_OF_CLASSES = ("names", "classes", "class_names", "labels", "id2label", "character")
_UNTOLD = "nothing says that it is anything else"
_GUESSED = frozenset(("classes", "embedding"))
"""Kinds that a limit alone says enough of."""

_SUM, _NORM = 2e-3, 1e-3
_LEAST_FEATURES = 8
_LEAST_SYMBOLS = 10
_BLANKS = 0.3


@dataclass(frozen=True)
class Evidence:
    """What kinds are told by.

    Attributes:
        model: the source as it came; without nodes where only its outputs are known.
        outputs: what it gives on some rows, by name, in its order.
        labels: labels of the same rows, or None.
        given: what a person says of outputs, by name.
        asked: kinds of which a person limits something, with the limit's name.
    """

    model: onnx.ModelProto
    outputs: Mapping[str, Array]
    labels: np.ndarray | None = None
    given: Mapping[str, str | Mapping[str, Any]] = field(default_factory=dict)
    asked: Mapping[Kind, str] = field(default_factory=dict)


@dataclass(frozen=True)
class _Origin:
    """The node that decides an output, and what it is fed."""

    operator: str
    place: int
    tensor: str
    node: onnx.NodeProto | None


def tell_outputs(evidence: Evidence) -> tuple[Output, ...]:
    """Return what each output is, in the model's order.

    Raises:
        ConfigError: something is said of an output that is not there or cannot be that; one gives
            no values on any row, though it may; or nothing is left to be judged.
    """
    model = evidence.model
    _check_names(evidence)
    made_by = {name: node for node in model.graph.node for name in node.output if name}
    names = frozenset(evidence.outputs)
    reached = reached_by_inputs(model) if model.graph.node else names
    weighted = reached_by_weights(model) if model.graph.node else names
    told = []
    for name, rows in evidence.outputs.items():
        if name in reached or name in evidence.given:
            output = _tell(name, rows, _origin(name, made_by), made_by, evidence)
        else:
            output = Output(name, "ignore", reason="it does not depend on the inputs")
        output = replace(output, decision=_decision(name, made_by))
        told.append(replace(output, is_fixed=name not in weighted))
    told = _joined(_as_asked(told, evidence), evidence)
    if all(output.kind == "ignore" for output in told):
        raise ConfigError(
            f"no output is left to be judged: {', '.join(output.name for output in told)} are all "
            "ignored; judge one of them at least"
        )
    return tuple(told)


def _as_asked(told: list[Output], evidence: Evidence) -> list[Output]:
    """Take the only output that nothing else tells for what a limit speaks of.

    Raises:
        ConfigError: no output is of a kind that is limited, and several could be, or none.
    """
    for kind, limit in evidence.asked.items():
        if any(output.kind == kind for output in told):
            continue
        open_ones = [
            output.name for output in told if output.reason == _UNTOLD and kind in _GUESSED
        ]
        if len(open_ones) != 1:
            raise ConfigError(
                f"{limit} limits outputs that are {kind}, and the model has none: "
                f"{', '.join(f'{output.name} is {output.kind}' for output in told)}; say which one "
                f"is (data.outputs: {{NAME: {kind}}}, or --kind NAME={kind}), or limit what it has"
            )
        (name,) = open_ones
        guessed = as_given(name, kind, _sample(evidence.outputs[name]))
        guessed = replace(guessed, reason=f"{limit} limits it", is_given=False)
        told = [
            replace(guessed, decision=output.decision, is_fixed=output.is_fixed)
            if output.name == name
            else output
            for output in told
        ]
    return told


def _check_names(evidence: Evidence) -> None:
    for name in evidence.given:
        if name not in evidence.outputs:
            told = hint(name, evidence.outputs, "it has ")
            raise ConfigError(f"the model has no output {name!r} ({told})")


def _joined(told: list[Output], evidence: Evidence) -> list[Output]:
    """Judge outputs that boxes take their scores and classes from with the boxes."""
    parts = {
        str(output.settings[key]): output.name
        for output in told
        if output.kind == "boxes"
        for key in ("scores", "classes")
        if isinstance(output.settings.get(key), str)
    }
    for name, boxes in parts.items():
        if name not in evidence.outputs:
            raise ConfigError(
                f"output {boxes!r}: the model has no output {name!r}; it has "
                f"{', '.join(evidence.outputs)}"
            )
    return [
        Output(output.name, "ignore", reason=f"it is judged with {parts[output.name]!r}")
        if output.name in parts and not output.is_given
        else output
        for output in told
    ]


def _tell(
    name: str,
    rows: Array,
    origin: _Origin,
    made_by: Mapping[str, onnx.NodeProto],
    evidence: Evidence,
) -> Output:
    sample = _sample(rows)
    if name in evidence.given:
        return as_given(name, evidence.given[name], sample)
    if sample is not None and not sample.size:
        if not _declares_nothing(name, evidence.model):
            raise ConfigError(
                f"output {name!r} gives no values on any of these rows, so that they cannot judge "
                f"it: give rows on which it does, or leave it out (data.outputs: {{{name}: "
                f"ignore}}, or --kind {name}=ignore)"
            )
        return Output(name, "ignore", reason="it never gives any values")
    first = np.asarray(rows[0])
    if first.dtype.kind in "USO":
        return Output(name, "classes", "texts", reason="it gives texts")
    if first.dtype.kind == "b":
        return Output(name, "classes", "numbers", reason="it gives yes or no")
    if first.dtype.kind in "iu":
        how = f"{origin.operator} gives it" if origin.operator else "it gives whole numbers"
        return Output(name, "classes", "numbers", reason=how)
    if _is_state(name, evidence.model, made_by):
        return Output(name, "state", reason="it is the last state of a recurrent layer")
    if sample is None:
        return Output(name, "values", reason=_UNTOLD)
    for tell in (_detector, _distribution, _named_classes, _labelled, _embedding):
        found = tell(name, sample, origin, evidence)
        if found is not None:
            return found
    return Output(
        name,
        "values",
        axis=channel_axis(sample.shape),
        settings={"each": True} if _is_head(sample, origin) else {},
        reason=_UNTOLD,
    )


def _declares_nothing(name: str, model: onnx.ModelProto) -> bool:
    """Whether the model says that an output has no room for any value."""
    shapes = [out.type.tensor_type.shape for out in model.graph.output if out.name == name]
    return any(d.HasField("dim_value") and d.dim_value == 0 for s in shapes for d in s.dim)


def _sample(rows: Array) -> np.ndarray | None:
    """Return some rows as one array of floats, None where shapes differ too much for that."""
    if isinstance(rows, np.ndarray):
        return rows[:: max(1, len(rows) // 256)]
    every = [np.asarray(row) for row in rows]
    every = [row for row in every if row.size] or every[:1]  # no boxes on some image
    if len({row.ndim for row in every}) != 1:
        return None
    smallest = tuple(min(sizes) for sizes in zip(*(row.shape for row in every), strict=True))
    cut = tuple(slice(0, size) for size in smallest)
    return np.stack([row[cut] for row in every[:256]])


def _is_head(sample: np.ndarray, origin: _Origin) -> bool:
    """Whether an output has columns of their own: no map, and nothing that bounds them alike."""
    return sample.ndim == 2 and origin.operator not in ("Sigmoid", "HardSigmoid", "Tanh", "Softmax")


def _distribution(
    name: str, sample: np.ndarray, _origin: _Origin, evidence: Evidence
) -> Output | None:
    """Tell probabilities by their sums, and log-probabilities by those of their powers."""
    if sample.ndim < 2 or not np.isfinite(sample).all():
        return None
    values = sample.astype(np.float64)
    form = ""
    if values.min() >= 0 and values.max() <= 1 + _SUM:
        form = "probabilities"
    elif values.max() <= _SUM:
        form, values = "log probabilities", np.exp(values)
    if not form:
        return None
    axes = [
        axis
        for axis in range(sample.ndim - 1, 0, -1)
        if sample.shape[axis] > 1 and np.abs(values.sum(axis=axis) - 1).max() <= _SUM
    ]
    if not axes or np.ptp(values) < _SUM:
        return None
    told = f"its {form} sum to 1"
    output = Output(name, "classes", form, axis=axes[0], reason=told)
    return _as_sequence(output, sample, evidence) or output


def _as_sequence(output: Output, sample: np.ndarray, evidence: Evidence) -> Output | None:
    """Tell a CTC output: steps read off an image or a sound, most of them blank or repeated."""
    if sample.ndim != 3 or output.axis != 2 or sample.shape[2] < _LEAST_SYMBOLS:
        return None
    named = _class_names(evidence.model)
    is_text = "character" in named and abs(named["character"] - sample.shape[2]) <= 2
    reads_signal = all(
        value.type.tensor_type.elem_type in (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16)
        for value in evidence.model.graph.input
        if value.name not in {tensor.name for tensor in evidence.model.graph.initializer}
    )
    best = sample.argmax(axis=2)
    for blank in (0, sample.shape[2] - 1):
        share = float((best == blank).mean())
        if reads_signal and (share >= _BLANKS or is_text):
            why = "the model's metadata name its characters" if is_text else (
                f"{100 * share:.0f} % of its steps are class {blank}, CTC's blank"
            )  # fmt: skip
            return Output(
                output.name, "sequence", output.form, axis=2, settings={"blank": blank}, reason=why
            )
    return None


def _named_classes(
    name: str, sample: np.ndarray, _origin: _Origin, evidence: Evidence
) -> Output | None:
    """Tell logits by the output's name, or by as many names of classes in the metadata."""
    if sample.ndim < 2:
        return None
    axis = 1 if sample.ndim == 4 else sample.ndim - 1
    if sample.shape[axis] < 2:
        return None
    words = name.lower().replace("/", "_").replace(".", "_").replace(":", "_").split("_")
    if "logits" in words or "logit" in words:
        return Output(name, "classes", "logits", axis=axis, reason="it is named so")
    for key, count in _class_names(evidence.model).items():
        if count == sample.shape[axis] and sample.ndim == 2:
            why = f"the model's metadata ({key}) name {count} classes"
            return Output(name, "classes", "logits", axis=axis, reason=why)
    return None


def _labelled(
    name: str, _sample: np.ndarray, _origin: _Origin, evidence: Evidence
) -> Output | None:
    """Tell classes by labels that the best class is right about more often than chance."""
    labels, rows = evidence.labels, evidence.outputs[name]
    if labels is None or labels.dtype.kind not in "iub" or not isinstance(rows, np.ndarray):
        return None
    labels = labels.reshape(-1) if labels.shape[1:] == (1,) else labels
    if labels.ndim != 1 or rows.ndim not in (1, 2) or len(labels) != len(rows):
        return None
    wide = rows.ndim == 2 and rows.shape[1] > 1
    classes = rows.shape[1] if wide else 2
    if labels.min() < 0 or labels.max() >= classes:
        return None
    if wide:
        form, axis, best = "logits", 1, rows.argmax(axis=1)
    else:
        flat = rows.reshape(-1)
        is_probability = flat.min() >= 0 and flat.max() <= 1
        form, axis = "binary" if is_probability else "binary logits", None
        best = (flat > (0.5 if is_probability else 0.0)).astype(np.int64)
    right = float((best == labels).mean())
    most = float(np.bincount(labels.astype(np.int64)).max() / len(labels))
    if right - most <= (1 - most) / 4:
        return None
    why = f"its best class is the label of {100 * right:.0f} % of the rows"
    return Output(name, "classes", form, axis=axis, reason=why)


def _embedding(
    name: str, sample: np.ndarray, origin: _Origin, _evidence: Evidence
) -> Output | None:
    """Tell an embedding by vectors of length 1, or by its name."""
    if sample.ndim not in (2, 3) or sample.shape[-1] < _LEAST_FEATURES:
        return None
    axis = sample.ndim - 1
    norms = np.linalg.norm(sample.astype(np.float64), axis=-1)
    if origin.operator == "LpNormalization" or np.abs(norms - 1).max() <= _NORM:
        return Output(name, "embedding", axis=axis, reason="its vectors have length 1")
    if sample.ndim == 2 and "embed" in name.lower():
        return Output(name, "embedding", axis=axis, reason="it is named so")
    return None


def _detector(name: str, sample: np.ndarray, _origin: _Origin, evidence: Evidence) -> Output | None:
    """Tell the raw head of a YOLO by the metadata that ultralytics writes."""
    metadata = _metadata(evidence.model)
    names = _class_names(evidence.model).get("names")
    if sample.ndim != 3 or names is None or metadata.get("task", "detect") != "detect":
        return None
    if "stride" not in metadata:
        return None
    for axis in (1, 2):
        columns = sample.shape[axis]
        if columns == 4 + names:
            settings: dict[str, int | float | str | bool] = {"scores": 4}
        elif columns == 5 + names:
            settings = {"scores": 5, "objectness": 4}
        else:
            continue
        why = f"the model's metadata name a detector of {names} classes"
        return Output(name, "boxes", "cxcywh", axis=axis, settings=settings, reason=why)
    return None


def _metadata(model: onnx.ModelProto) -> dict[str, str]:
    return {entry.key: entry.value for entry in model.metadata_props}


def _class_names(model: onnx.ModelProto) -> dict[str, int]:
    """Return how many classes each entry of the metadata names."""
    found = {}
    for key, text in _metadata(model).items():
        if key in _NAMES_OF_CLASSES:
            count = _count_names(text)
            if count > 1:
                found[key] = count
    return found


def _count_names(text: str) -> int:
    for read in (parse_json, ast.literal_eval):
        try:
            names = read(text)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            continue
        if isinstance(names, Mapping) or (
            isinstance(names, Sequence) and not isinstance(names, str)
        ):
            return len(names)
    separator = "\n" if "\n" in text else ","
    return len([name for name in text.split(separator) if name])


def _origin(name: str, made_by: Mapping[str, onnx.NodeProto]) -> _Origin:
    """Go back over operators that decide nothing, to the one that does."""
    while (node := made_by.get(name)) is not None and node.op_type in _TRANSPARENT:
        name = node.input[0]
    if node is None:
        return _Origin("", 0, name, None)
    return _Origin(node.op_type, list(node.output).index(name), name, node)


def _decision(name: str, made_by: Mapping[str, onnx.NodeProto]) -> str:
    """Return the tensor in which an output was decided."""
    while (node := made_by.get(name)) is not None:
        if node.op_type in _TRANSPARENT or node.op_type in _DECISIONS:
            name = node.input[0]
        elif node.op_type in _CLASS_SCORES:
            return node.output[0]
        elif node.op_type in ("LabelEncoder", "ArrayFeatureExtractor", "Gather") and len(
            node.input
        ):
            # names of classes, looked up by their numbers
            behind = node.input[-1]
            if node.op_type != "LabelEncoder" and _origin(behind, made_by).operator != "ArgMax":
                return name
            name = behind
        else:
            return name
    return name


def _is_state(name: str, model: onnx.ModelProto, made_by: Mapping[str, onnx.NodeProto]) -> bool:
    """Whether an output is the last state of a recurrent layer that begins with an input."""
    origin = _origin(name, made_by)
    if origin.node is None or origin.operator not in _RECURRENT or origin.place == 0:
        return False
    inputs = {value.name for value in model.graph.input}
    begins = [_origin(value, made_by).tensor for value in origin.node.input[5:7] if value]
    return any(begin in inputs for begin in begins)
