"""Settings as frozen dataclasses: read from plain data, checked, and written back."""

import dataclasses
import types
import typing
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any, Literal, TypeVar

from mlflow_compress.base.bounds import COUNT
from mlflow_compress.base.spelling import closest
from mlflow_compress.errors import ConfigError, shown

__all__ = ["at_least", "between", "check_choices", "one_of", "parse", "plain_settings"]

S = TypeVar("S")


def between(key: str, value: float, low: float, high: float) -> None:
    """Raise ConfigError unless ``low <= value <= high``; offers the percentage as a fraction."""
    if low <= value <= high:
        return
    hint = ""
    if high <= 1 and low <= value / 100 <= high:
        hint = f" (did you mean {value / 100:g}?)"
    raise ConfigError(f"{key} must be between {low:g} and {high:g}, got {value!r}{hint}")


def at_least(key: str, value: float, low: float) -> None:
    """Raise ConfigError unless ``value >= low``, and no count of anything that there is."""
    if not value >= low:
        raise ConfigError(f"{key} must be at least {low:g}, got {value!r}")
    if value > COUNT.most:
        raise ConfigError(f"{key} must be at most {COUNT.most:,}, got {shown(value)}")


def one_of(key: str, value: object, allowed: Iterable[object]) -> None:
    """Raise ConfigError unless ``value`` is among ``allowed``."""
    allowed = list(allowed)
    if value not in allowed:
        listed = ", ".join(str(item) for item in allowed)
        raise ConfigError(
            f"{key} must be one of {listed}, got {value!r}{closest(str(value), map(str, allowed))}"
        )


def check_choices(name: str, settings: Any) -> None:
    """Raise ConfigError when a ``Literal`` field of a settings dataclass holds anything else."""
    for key, hint in typing.get_type_hints(type(settings)).items():
        if typing.get_origin(hint) is Literal:
            one_of(f"{name}.{key}", getattr(settings, key), typing.get_args(hint))


def parse(name: str, kind: type[S], values: Mapping[str, Any]) -> S:
    """Build a settings dataclass from plain data.

    Args:
        name: whose settings they are, for messages.
        kind: the dataclass.
        values: by field.

    Raises:
        ConfigError: an unknown key, a value of the wrong type or out of range; the message
            names ``name.key``, the value and what is allowed.
    """
    cls: Any = kind
    hints = _hints(cls)
    names = [item.name for item in dataclasses.fields(cls)]
    parsed: dict[str, Any] = {}
    for key, value in values.items():
        if key not in names:
            raise ConfigError(
                f"{name}.{key}: no such setting{closest(str(key), names)}; "
                f"{name} knows {', '.join(names) or 'none'}"
            )
        parsed[key] = _coerce(f"{name}.{key}", value, hints[key])
    made: S = cls(**parsed)
    return made


@lru_cache
def _hints(cls: type) -> Mapping[str, Any]:
    """Return the types of a settings class; a search parses settings for every point it draws."""
    return typing.get_type_hints(cls)


def plain_settings(settings: Any) -> dict[str, Any]:
    """Return settings as plain data in canonical form: defaults left out, unless telling."""
    plain: dict[str, Any] = {}
    for item in dataclasses.fields(settings):
        value = getattr(settings, item.name)
        if value != item.default or item.metadata.get("telling"):
            plain[item.name] = list(value) if isinstance(value, tuple) else value
    return plain


def _coerce(key: str, value: Any, hint: Any) -> Any:
    """Return ``value`` as the type of ``hint``; JSON and YAML know no tuples and mix 1 and 1.0."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        return value  # the settings check their choices themselves
    if origin in (types.UnionType, typing.Union):
        if value is None and type(None) in args:
            return None
        return _coerce(key, value, next(arg for arg in args if arg is not type(None)))
    if origin is tuple:
        if isinstance(value, str) or not isinstance(value, list | tuple):
            raise ConfigError(f"{key} must be a list, got {value!r}")
        return tuple(_coerce(key, item, args[0]) for item in value)
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if is_number and isinstance(value, int) and value.bit_length() > 63:
        raise ConfigError(f"{key} must be a number of at most 64 bits, got {shown(value)}")
    if hint is float and is_number:
        return float(value)
    if hint is int and is_number and float(value).is_integer():
        return int(value)
    if hint in (bool, str) and isinstance(value, hint):
        return value
    kind = {float: "a number", int: "a whole number", bool: "true or false", str: "a text"}
    raise ConfigError(f"{key} must be {kind.get(hint, hint)}, got {value!r}")
