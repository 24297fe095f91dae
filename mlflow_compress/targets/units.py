"""Sizes and durations as people write them: ``2MB``, ``60kB``, ``1.5MiB``, ``15ms``, ``0.2s``."""

import math
import re

from mlflow_compress.errors import shown

__all__ = ["format_ms", "format_size", "parse_ms", "parse_size"]

# kB and KB are both written in the wild and mean the same thousand; `Mb` is megabits to some
# and megabytes to others, so that it is refused rather than guessed.
SIZE_UNITS = {
    "B": 1,
    "kB": 10**3,
    "KB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
    "KiB": 2**10,
    "MiB": 2**20,
    "GiB": 2**30,
}
TIME_UNITS = {"us": 1e-3, "ms": 1.0, "s": 1e3}

_MOST_BYTES = 2**63
"""What the system's calls take."""

_AMOUNT = re.compile(r"^\s*([0-9]+(?:\.[0-9]+)?)\s*([A-Za-z]*)\s*$")


def _split(text: str) -> tuple[float, str]:
    match = _AMOUNT.match(text)
    if match is None:
        raise ValueError(f"{text!r} is no amount with a unit")
    return float(match.group(1)), match.group(2)


def parse_size(value: object) -> int:
    """Return bytes; a bare whole number is bytes already.

    Args:
        value: ``"2MB"`` (10**6), ``"1.5MiB"`` (2**20), or an int.

    Raises:
        ValueError: for an unknown unit, a negative or non-finite amount, or another type.
    """
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ValueError(f"must be a size such as 2MB or 1.5MiB, got {value!r}")
    if isinstance(value, str):
        try:
            amount, unit = _split(value)
            amount *= SIZE_UNITS[unit]
        except (ValueError, KeyError):
            known = ", ".join(SIZE_UNITS)
            raise ValueError(f"must be a size with a unit ({known}), got {value!r}") from None
    else:
        amount = float(value) if abs(value) < _MOST_BYTES else math.inf
    if not 0 < amount < _MOST_BYTES:
        raise ValueError(f"must be more than 0 bytes and below 8 EiB, got {shown(value)}")
    return round(amount)


def parse_ms(value: object) -> float:
    """Return milliseconds; a bare number is refused, because it could be either unit.

    Args:
        value: ``"15ms"``, ``"0.2s"`` or ``"800us"``.

    Raises:
        ValueError: without a known unit, or for an amount that is not above 0.
    """
    if isinstance(value, int | float) and not isinstance(value, bool):
        raise ValueError(f"needs a unit, got {value!r} (write {value}ms or {value}s)")
    if not isinstance(value, str):
        raise ValueError(f"must be a duration such as 15ms or 0.2s, got {value!r}")
    try:
        amount, unit = _split(value)
        amount *= TIME_UNITS[unit]
    except (ValueError, KeyError):
        known = ", ".join(TIME_UNITS)
        raise ValueError(f"must be a duration with a unit ({known}), got {value!r}") from None
    if not math.isfinite(amount) or amount <= 0:
        raise ValueError(f"must be more than 0 ms, got {value!r}")
    return amount


def format_size(count: float) -> str:
    """Return bytes for a person: ``28.1 kB``, ``1.07 MB``."""
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= scale:
            return f"{count / scale:.4g} {unit}"
    return f"{count:.0f} B"


def format_ms(value: float) -> str:
    """Return milliseconds for a person: ``0.041 ms``, ``1.2 s``."""
    return f"{value / 1e3:.4g} s" if value >= 1e3 else f"{value:.3g} ms"
