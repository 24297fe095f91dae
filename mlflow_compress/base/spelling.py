"""Names that are not there, and what they may have meant."""

import difflib
from collections.abc import Iterable

__all__ = ["closest", "hint"]

_SHOWN = 10


def closest(word: str, known: Iterable[str]) -> str:
    """Return `` (did you mean 'x'?)`` for the nearest known word, or an empty string."""
    near = _nearest(word, known)
    return f" (did you mean {near!r}?)" if near else ""


def hint(word: str, known: Iterable[str], lead: str = "known: ") -> str:
    """Return ``did you mean 'x'?`` for the nearest known word, or what there is.

    Args:
        word: what was asked for.
        known: what there is, in the order in which it is shown.
        lead: stands before what there is.
    """
    names = list(known)
    if near := _nearest(word, names):
        return f"did you mean {near!r}?"
    more = ", …" if len(names) > _SHOWN else ""
    return f"{lead}{', '.join(names[:_SHOWN]) or 'none'}{more}"


def _nearest(word: str, known: Iterable[str]) -> str | None:
    return next(iter(difflib.get_close_matches(str(word), list(known), n=1)), None)
