"""Whether the functions of a portable file are those that this project writes.

A native reader does not run them, and onnxruntime runs nothing else: a file whose functions compute
something else than its data say would be one model here and another on the device.
"""

from collections.abc import Iterator

from onnx import FunctionProto, ModelProto

from mlflow_compress.errors import PackedFormatError, shown
from mlflow_compress.packed.format import DOMAIN
from mlflow_compress.packed.portable.functions import (
    HELPERS,
    LEVEL_KINDS,
    SEGMENT_KINDS,
    STEPS,
    STREAMS,
    Reading,
    functions,
)

__all__ = ["check_functions"]

_DEEPEST, _NAMED = 12, 3


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
    found = [_bytes(function) for function in own]
    known: set[bytes] = set()
    for reading in _readings(kinds & (SEGMENT_KINDS | LEVEL_KINDS | {"Fixed"})):
        written = [_bytes(one) for one in functions(reading, opset)]
        if found == written:
            break
        known.update(written)
    else:
        odd = [one.name for one, data in zip(own, found, strict=True) if data not in known]
        raise PackedFormatError(
            f"functions: {_named(odd) or 'their number or order'}: not as this version writes "
            "them, so that onnxruntime may decode something else than the file's data: pack the "
            "model again"
        )
    used = {node.op_type for function in own for node in function.node}
    for function in model.functions:
        if function.domain in ("", "ai.onnx") and function.name in used:
            raise PackedFormatError(
                f"functions: {function.name!r} stands for an operator that decoding uses"
            )


def _bytes(function: FunctionProto) -> bytes:
    return function.SerializeToString(deterministic=True)


def _named(names: list[str]) -> str:
    """Return names for a message, a few of them where they are many."""
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(map(shown, names[:_NAMED])) + more


def _readings(kinds: frozenset[str]) -> Iterator[Reading]:
    """All that a model with these kinds may need functions for."""
    segments, levels = bool(kinds & SEGMENT_KINDS), bool(kinds & LEVEL_KINDS)
    for step in sorted(STEPS) if segments else [min(STEPS)]:
        for merge in (False, True) if segments else (False,):
            for depth in range(1, _DEEPEST + 1) if levels else [_DEEPEST]:
                yield Reading(kinds, step, merge, depth)
