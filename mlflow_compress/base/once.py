"""What a person gives twice is refused: else one of the two would be lost without a word."""

from collections.abc import Callable, Iterable, MutableMapping
from typing import TypeVar

from mlflow_compress.errors import ConfigError, shown

__all__ = ["of_pairs", "put_once"]

K = TypeVar("K")
V = TypeVar("V")


def put_once(found: MutableMapping[K, V], key: K, value: V, label: str) -> None:
    """Put a value under a key that has none.

    Args:
        found: what was given so far.
        key: what the value is of.
        value: the value.
        label: where it was given, such as ``--limit error=0.1``, for the message.

    Raises:
        ConfigError: the key has a value already.
    """
    if key in found:
        raise ConfigError(
            f"{label}: {key} is given twice, {shown(found[key])} and {shown(value)}: keep one"
        )
    found[key] = value


def of_pairs(pairs: Iterable[tuple[K, V]], refused: Callable[[K], Exception]) -> dict[K, V]:
    """Return a mapping of pairs, each of whose keys stands there once.

    What looks at the first of two and what looks at the last would see two mappings.

    Args:
        pairs: keys and values in their order.
        refused: returns what is raised for a key that stands there twice.
    """
    made: dict[K, V] = {}
    for key, value in pairs:
        if key in made:
            raise refused(key)
        made[key] = value
    return made
