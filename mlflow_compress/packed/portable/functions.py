"""The decoding functions that a portable file carries, and how they are put together.

Only functions that a model uses go into it, and what only one function uses is written out there
instead of called. ``docs/format.md``, section 7, says what each computes.
"""

import string
from collections.abc import Iterator, MutableSequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain, product

from onnx import FunctionProto, parser

from mlflow_compress.packed.format import DOMAIN
from mlflow_compress.packed.portable import texts

__all__ = [
    "HELPERS",
    "LEVEL_KINDS",
    "SEGMENT_KINDS",
    "STEPS",
    "STREAMS",
    "Reading",
    "functions",
    "functions_bytes",
]

SEGMENT_KINDS = frozenset(["Gaps", "Huffman", "Sparse"])
LEVEL_KINDS = frozenset(["GapsLevels", "Levels", "SparseLevels"])
STREAMS = "Streams"  # the node that decodes the streams of all weights of SEGMENT_KINDS
HELPERS = "mc"  # short, because each call of a helper names it

# How the walk through a segment's bytes is unrolled: steps in the innermost function, calls of
# it in the next one. 64 takes fewer bytes of functions, 128 fewer bytes per weight.
STEPS = {64: (8, 8), 128: (16, 8)}


@dataclass(frozen=True)
class Reading:
    """What the functions of a model must be able to read.

    Attributes:
        kinds: op types that nodes of the model have.
        step: bytes per segment, a key of :data:`STEPS`; for :data:`SEGMENT_KINDS`.
        merge: whether the node says how many codes can end within a nibble; for the same.
        depth: longest code; for :data:`LEVEL_KINDS`.
    """

    kinds: frozenset[str]
    step: int = 64
    merge: bool = False
    depth: int = 12


def functions(reading: Reading, opset: int) -> list[FunctionProto]:
    """The functions for a model, each after those it calls.

    Args:
        reading: what must be read.
        opset: the model's opset, which the functions share; 13 or more.
    """
    return [FunctionProto.FromString(data) for data in _built(reading, opset)]


def functions_bytes(reading: Reading, opset: int) -> int:
    """What :func:`functions` and the imports of their domains add to a file."""
    bodies = _built(reading, opset)
    imports = len(DOMAIN) + 8 + (len(HELPERS) + 8 if len(bodies) > 1 else 0)
    return sum(len(data) + 3 for data in bodies) + imports if bodies else 0


@lru_cache(maxsize=256)
def _built(reading: Reading, opset: int) -> tuple[bytes, ...]:
    bodies = [*_helpers(reading, opset)]
    if reading.kinds & SEGMENT_KINDS:
        bodies.append((DOMAIN, STREAMS, texts.STREAMS))
    bodies += [(DOMAIN, kind, texts.TOP[kind]) for kind in sorted(reading.kinds)]
    macros = _macros(reading)
    macros["FOUR_WAYS"] = ", num_outputs=4" if opset >= 18 else ""
    return tuple(
        _parse(domain, name, _expand(text, macros), opset).SerializeToString()
        for domain, name, text in bodies
    )


def _shared(reading: Reading) -> bool:
    """Whether the body for levels is used in several places, and so is worth a function."""
    return len(reading.kinds & LEVEL_KINDS) > 1 or "SparseLevels" in reading.kinds


def _macros(reading: Reading) -> dict[str, str]:
    macros = dict(texts.MACROS)
    macros["WALK"] = f"walk{reading.step}"
    if not reading.merge:
        macros.update(dict.fromkeys(texts.MERGE_MACROS, ""), EMIT="emit4")
    if _shared(reading):
        macros["LEVELS"] = macros["CALL_LEVELS"]
    if reading.depth > texts.FLAT_LEVELS:
        macros["DESCEND"] = texts.descend("level4", -(-reading.depth // 4))
    else:
        macros["DESCEND"] = texts.descend("level", reading.depth)
    return macros


def _expand(text: str, macros: dict[str, str]) -> str:
    while "$" in text:
        text = string.Template(text).substitute(macros)
    return text


def _helpers(reading: Reading, opset: int) -> Iterator[tuple[str, str, str]]:
    if reading.kinds & SEGMENT_KINDS:
        steps, calls = STEPS[reading.step]
        yield HELPERS, "walk", texts.walk(steps, "", opset)
        yield HELPERS, f"walk{reading.step}", texts.walk(calls, "walk", opset)
        yield HELPERS, "square", texts.SQUARE
        yield HELPERS, "spread", texts.SPREAD
    if reading.kinds & LEVEL_KINDS:
        yield HELPERS, "level", texts.LEVEL
        if reading.depth > texts.FLAT_LEVELS:
            yield HELPERS, "level4", texts.LEVEL4
        if _shared(reading):
            yield HELPERS, "levels", texts.LEVELS_FUNCTION


def _parse(domain: str, name: str, text: str, opset: int) -> FunctionProto:
    """Parse a function and give its values short names, in the order of their appearance."""
    imports = f'"": {opset}' + (f', "{HELPERS}": 1' if f"{HELPERS}." in text else "")
    function = parser.parse_function(
        f'<domain: "{domain}", opset_import: [{imports}]> {name} {text}'
    )
    letters = string.ascii_letters
    fresh = map("".join, chain(letters, product(letters, repeat=2)))
    short: dict[str, str] = {}
    for names in (function.input, function.output, *_names(function)):
        for place, value in enumerate(names):
            if value not in short:
                short[value] = next(fresh)
            names[place] = short[value]
    return function


def _names(function: FunctionProto) -> Iterator[MutableSequence[str]]:
    for node in function.node:
        yield node.input
        yield node.output
