"""Records as plain data and back: what JSON can hold, checked on the way in."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from types import UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

__all__ = ["OMITTED", "canonical_json", "digest_of", "from_dict", "to_dict"]

OMITTED = {"omitted": True}
"""Metadata of a field that is not written while it has its default.

Fields that came later have it: a record that was stored before them is written again as it was.
"""


def canonical_json(value: Any) -> str:
    """Serialise plain data so that equal data give equal text (sorted keys, no spaces)."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def digest_of(value: Any) -> str:
    """Return the sha256 (64 hex digits) of plain data's canonical JSON."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


def to_dict(record: Any) -> dict[str, Any]:
    """Turn any record into plain data (dicts, lists, numbers, strings)."""
    data: dict[str, Any] = _plain(record)
    return data


def _plain(value: Any) -> Any:
    """Replace what JSON has no word for: records become mappings, sets sorted lists."""
    if is_dataclass(value) and not isinstance(value, type):
        return {
            item.name: _plain(getattr(value, item.name))
            for item in fields(value)
            if not (OMITTED.items() <= item.metadata.items())
            or getattr(value, item.name) != item.default
        }
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_plain(item) for item in value)
    return sorted(value) if isinstance(value, set | frozenset) else value


# No record counts so far, and arithmetic with floats ends in OverflowError somewhere beyond.
_TOO_LARGE = 1 << 64

Record = TypeVar("Record")


def from_dict(kind: type[Record], data: Any) -> Record:
    """Rebuild a record from what :func:`to_dict` made of it, checking every type on the way.

    Args:
        kind: a record class.
        data: plain data, for example from JSON; keys with a default may be missing.

    Raises:
        ValueError: one line with the path of the first key that does not fit.
    """
    return _build(kind, data, kind.__name__)


def _build(kind: Any, data: Any, path: str) -> Any:
    origin, args = get_origin(kind), get_args(kind)
    if kind is Any:
        return data
    if is_dataclass(kind):
        return _build_record(kind, data, path)
    if origin in (Union, UnionType):
        if data is None and type(None) in args:
            return None
        return _build(next(arg for arg in args if arg is not type(None)), data, path)
    if origin is Literal and data in args:
        return data
    if origin in (tuple, frozenset) and isinstance(data, list | tuple | set | frozenset):
        return origin(_build(args[0], item, f"{path}[{i}]") for i, item in enumerate(data))
    if origin is Mapping and isinstance(data, Mapping):
        return {
            (int(key) if args[0] is int else key): _build(args[1], value, f"{path}.{key}")
            for key, value in data.items()
        }
    if isinstance(data, int) and not -_TOO_LARGE < data < _TOO_LARGE:
        raise ValueError(f"{path} does not fit: a number of {data.bit_length()} bits")
    if kind is float and isinstance(data, int | float) and not isinstance(data, bool):
        return float(data)
    if kind is bool and isinstance(data, bool):
        return data
    if kind in (int, str) and isinstance(data, kind) and not isinstance(data, bool):
        return data
    raise ValueError(f"{path} does not fit: {str(data)[:80]!r}")


def _build_record(kind: Any, data: Any, path: str) -> Any:
    if not isinstance(data, Mapping):
        raise ValueError(f"{path} must be a mapping, got {str(data)[:80]!r}")
    hints = get_type_hints(kind)
    unknown = sorted(set(data) - set(hints))
    if unknown:
        raise ValueError(f"{path} has an unknown key {unknown[0]!r}")
    for item in fields(kind):
        needed = item.default is MISSING and item.default_factory is MISSING
        if needed and item.name not in data:
            raise ValueError(f"{path}.{item.name} is missing")
    return kind(**{key: _build(hints[key], data[key], f"{path}.{key}") for key in data})
