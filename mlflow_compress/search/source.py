"""The source as it came: what its outputs are, and whether our own form of it computes the same."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx

from mlflow_compress import measure
from mlflow_compress.errors import SourceError
from mlflow_compress.measure.outputs import Evidence, tell_outputs
from mlflow_compress.measure.outputs.pairs import pairs
from mlflow_compress.measure.outputs.values import compare_values
from mlflow_compress.records import Output
from mlflow_compress.rows import Array
from mlflow_compress.targets import Target, asked_kinds, check_outputs

__all__ = ["check_same", "look_at_source"]

_ROUNDING = 1e-6
"""Normalised error up to which two outputs differ by rounding alone: 60 dB."""

_TIES = 1e-3
"""Share of whole numbers that rounding may turn over."""


def look_at_source(
    original: onnx.ModelProto,
    normal: onnx.ModelProto,
    rows: measure.Dataset,
    given: Mapping[str, str | Mapping[str, Any]] | None = None,
    targets: Sequence[Target] = (),
) -> tuple[Output, ...]:
    """Run the source as it came, compare our form of it, and tell what its outputs are.

    Args:
        original: the source as it came.
        normal: what techniques are given.
        rows: rows that fit it.
        given: what a person says of outputs, by name.
        targets: what their limits ask for tells too.

    Raises:
        SourceError: onnxruntime does not load the source, or our form of it computes otherwise.
        DataError: the source does not run on the rows.
        ConfigError: something is said of an output that cannot be.
    """
    reference = measure.run(measure.open_session(original), rows)
    asked = asked_kinds(targets)
    outputs = tell_outputs(Evidence(original, reference, rows.labels, given or {}, asked))
    check_outputs(targets, outputs)
    check_same(reference, measure.run(measure.open_session(normal), rows), outputs, "normalisation")
    return outputs


def check_same(
    reference: Mapping[str, Array],
    got: Mapping[str, Array],
    outputs: tuple[Output, ...],
    step: str,
) -> None:
    """Refuse a step that must not change what the source computes, and does.

    Raises:
        SourceError: names the step and the output.
    """
    for output in outputs:
        if output.name not in got:
            raise SourceError(f"{step} loses the source's output {output.name!r}")
        change = _change(output, got[output.name], reference[output.name])
        if change:
            raise SourceError(
                f"{step} changes the source's output {output.name!r} ({change}): this model cannot "
                "be compressed faithfully; simplify it or raise its opset where it was exported"
            )


def _change(output: Output, got: Array, wanted: Array) -> str:
    """Say how an output differs beyond rounding, empty when it does not."""
    first = np.asarray(wanted[0])
    if first.dtype.kind == "f":
        error = compare_values(output, got, wanted).error
        return f"normalised error {error:.3g}" if error > _ROUNDING else ""
    differ, places = 0, 0
    for pair in pairs(got, wanted):
        if pair is None:
            return "its shape"
        differ += int((pair[0] != pair[1]).sum())
        places += pair[0].size
    return f"{differ} of {places} values" if differ > _TIES * places else ""
