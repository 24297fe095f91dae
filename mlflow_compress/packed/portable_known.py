"""Whether the functions of a portable file are those that this project writes.

A native reader does not run them, and onnxruntime runs nothing else: a file whose functions compute
something else than its data say would be one model here and another on the device.
"""

from collections.abc import Iterator

from onnx import ModelProto

from mlflow_compress.errors import PackedFormatError
from mlflow_compress.packed.format import DOMAIN
from mlflow_compress.packed.portable_functions import (
    HELPERS,
    LEVEL_KINDS,
    SEGMENT_KINDS,
    STEPS,
    STREAMS,
    Reading,
    functions,
)

__all__ = ["check_functions"]

_DEEPEST = 12


def check_functions(model: ModelProto) -> None:
    """Compare the decoding functions of a portable model with those known.

    Args:
        model: as it is in the file.

    Raises:
        PackedFormatError: they are others, or a function of the model stands for an operator that
            they use.
    """
    own = [function for function in model.functions if function.domain in (DOMAIN, HELPERS)]
    opset = next((one.version for one in model.opset_import if one.domain in ("", "ai.onnx")), 0)
    kinds = frozenset(one.name for one in own if one.domain == DOMAIN) - {STREAMS}
    unknown = sorted(kinds - SEGMENT_KINDS - LEVEL_KINDS - {"Fixed"})
    found = [function.SerializeToString(deterministic=True) for function in own]
    known = not unknown and any(
        found == [one.SerializeToString(deterministic=True) for one in functions(reading, opset)]
        for reading in _readings(kinds)
    )
    if not known:
        raise PackedFormatError(
            "functions: not those that this version writes; what onnxruntime decodes may be "
            "something else than the file's data: pack the model again"
        )
    used = {node.op_type for function in own for node in function.node}
    for function in model.functions:
        if function.domain in ("", "ai.onnx") and function.name in used:
            raise PackedFormatError(
                f"functions: {function.name!r} stands for an operator that decoding uses"
            )


def _readings(kinds: frozenset[str]) -> Iterator[Reading]:
    """All that a model with these kinds may need functions for."""
    segments, levels = bool(kinds & SEGMENT_KINDS), bool(kinds & LEVEL_KINDS)
    for step in sorted(STEPS) if segments else [min(STEPS)]:
        for merge in (False, True) if segments else (False,):
            for depth in range(1, _DEEPEST + 1) if levels else [_DEEPEST]:
                yield Reading(kinds, step, merge, depth)
