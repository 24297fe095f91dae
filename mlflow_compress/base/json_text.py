"""The one reader of JSON from outside: a key twice or lists without end are mistakes like others.

Python lets the last of two equal keys win, other programs the first: what one of them checked, the
other need not do.
"""

import json
from typing import Any

from mlflow_compress.base.once import of_pairs
from mlflow_compress.errors import shown

__all__ = ["parse_json"]


def parse_json(text: str | bytes) -> Any:
    """Return what a JSON text says.

    Raises:
        ValueError: it is no JSON, has a key twice, or lies deeper than Python's parser goes.
    """
    try:
        return json.loads(text, object_pairs_hook=_once)
    except RecursionError:
        raise ValueError("lists and mappings inside one another without end") from None


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return a mapping whose keys stand there once."""
    return of_pairs(pairs, lambda key: ValueError(f"the key {shown(key)} stands there twice"))
