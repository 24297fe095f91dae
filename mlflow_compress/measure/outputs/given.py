"""Outputs of which a person says what they are."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from mlflow_compress.base.once import put_once
from mlflow_compress.base.spelling import closest, hint
from mlflow_compress.errors import ConfigError
from mlflow_compress.measure.outputs.classes import BINARY
from mlflow_compress.measure.outputs.values import channel_axis
from mlflow_compress.records import KINDS, Kind, Output

__all__ = ["SETTINGS", "as_given", "check_given", "parse_text"]

SETTINGS: Mapping[Kind, tuple[str, ...]] = {
    "classes": ("axis", "form"),
    "values": ("axis", "each"),
    "embedding": ("axis",),
    "boxes": (
        "axis", "format", "scores", "classes", "objectness", "threshold", "iou", "nms",
    ),
    "sequence": ("axis", "form", "ctc", "blank", "end"),
    "state": ("axis",),
    "ignore": (),
}  # fmt: skip
"""What may be said of each kind."""

_FORMS = {
    "classes": (
        "logits", "probabilities", "log probabilities", "binary", "binary logits", "numbers",
        "texts",
    ),
    "sequence": ("logits", "probabilities", "log probabilities"),
    "boxes": ("xyxy", "cxcywh", "xywh"),
}  # fmt: skip


def parse_text(text: str) -> tuple[str, dict[str, Any]]:
    """Read ``NAME=KIND[,key:value…]``, as the command line has it.

    Raises:
        ConfigError: it is not of that form, has a key twice, or the kind or a key does not exist.
    """
    name, equals, rest = text.rpartition("=")
    kind, *pairs = rest.split(",")
    if not equals or not name or not kind:
        raise ConfigError(
            f"--kind {text!r}: write NAME=KIND, such as logits=classes or "
            "output0=boxes,format:cxcywh,scores:4"
        )
    found: dict[str, Any] = {"kind": kind}
    for pair in pairs:
        key, colon, value = pair.partition(":")
        if not colon:
            raise ConfigError(f"--kind {text!r}: {pair!r} must be key:value")
        put_once(found, key, _value(value), f"--kind {text!r}")
    check_given(name, found)
    return name, found


def _value(text: str) -> int | float | str | bool:
    if text in ("true", "false"):
        return text == "true"
    for read in (int, float):
        try:
            return read(text)
        except ValueError:
            continue
    return text


def check_given(name: str, said: str | Mapping[str, Any]) -> dict[str, Any]:
    """Check what is said of an output, as far as that goes without the model.

    Returns:
        The long form, with ``kind``.

    Raises:
        ConfigError: one line with the output, the key and what is allowed.
    """
    data = {"kind": said} if isinstance(said, str) else dict(said)
    kind = data.get("kind")
    if kind not in KINDS:
        near = closest(str(kind), KINDS)
        raise ConfigError(f"output {name!r}: kind must be {', '.join(KINDS)}, got {kind!r}{near}")
    allowed = SETTINGS[kind]
    for key, value in data.items():
        if key == "kind":
            continue
        if key not in allowed:
            told = hint(key, allowed, f"{kind} take ")
            raise ConfigError(f"output {name!r}: unknown key {key!r} ({told})")
        if not isinstance(value, int | float | str):
            raise ConfigError(f"output {name!r}: {key} must be a number or a text, got {value!r}")
    forms = _FORMS.get(kind, ())
    form = data.get("format" if kind == "boxes" else "form")
    if form is not None and form not in forms:
        raise ConfigError(f"output {name!r}: it must be one of {', '.join(forms)}, got {form!r}")
    return data


def as_given(name: str, said: str | Mapping[str, Any], sample: np.ndarray | None) -> Output:
    """Return an output as a person says it is.

    Args:
        name: the output's name.
        said: a kind, or a mapping with ``kind`` and settings.
        sample: some rows of what the source gives, [rows, ...]; None when it has no one shape.

    Raises:
        ConfigError: it cannot be of that kind.
    """
    data = check_given(name, said)
    kind: Kind = data.pop("kind")
    axis = data.pop("axis", None)
    form = str(data.pop("format" if kind == "boxes" else "form", "") or "")
    if kind == "boxes":
        form = form or "xyxy"
        axis = 2 if axis is None else axis
    elif kind in ("classes", "sequence") and sample is not None:
        axis = _class_axis(sample, form) if axis is None else axis
        form = form or _form(sample, axis)
        axis = None if form in (*BINARY, "numbers", "texts") else axis
    elif kind == "embedding" and axis is None and sample is not None:
        axis = sample.ndim - 1
    elif kind == "values" and axis is None and sample is not None:
        axis = channel_axis(sample.shape)
    if axis is not None and sample is not None and not 0 < axis < sample.ndim:
        shape = ["rows", *sample.shape[1:]]
        raise ConfigError(f"output {name!r} has shape {shape}, and no axis {axis} beside the rows")
    return Output(name, kind, form, axis, settings=data, reason="you say so", is_given=True)


def _class_axis(sample: np.ndarray, form: str) -> int | None:
    """Return the axis of classes; None where one number stands for two, or where there are none."""
    if sample.dtype.kind not in "fc" or form in (*BINARY, "numbers", "texts"):
        return None
    if sample.ndim < 2 or sample.shape[1:] == (1,):
        return None
    axis = 1 if sample.ndim == 4 else sample.ndim - 1
    return axis if sample.shape[axis] > 1 else None


def _form(sample: np.ndarray, axis: int | None) -> str:
    if sample.dtype.kind in "USO":
        return "texts"
    if sample.dtype.kind not in "fc":
        return "numbers"
    values = sample.astype(np.float64)
    within = bool(values.min(initial=0) >= 0 and values.max(initial=0) <= 1 + 1e-3)
    if axis is None:
        return "binary" if within else "binary logits"
    if within and np.abs(values.sum(axis=axis) - 1).max(initial=0) <= 1e-2:
        return "probabilities"
    if values.max(initial=0) <= 1e-3:
        sums = np.exp(values).sum(axis=axis)
        if np.abs(sums - 1).max(initial=0) <= 1e-2:
            return "log probabilities"
    return "logits"
