"""What MLflow lists page by page, to its end or as far as is asked for, and the numbers in it."""

from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

from mlflow_compress.errors import UnreachableError, shown

__all__ = ["every", "up_to", "version_number"]

_MOST_PAGES = 1_000


def every(page_at: Callable[[str | None], Any]) -> Iterator[Any]:
    """Give what is on every page.

    Args:
        page_at: returns the page of a token, a list with the next one's ``token``.

    Raises:
        UnreachableError: the server names pages without end.
    """
    token, seen = None, set[str]()
    while True:
        page = page_at(token)
        yield from page
        token = page.token
        if not token:
            return
        if token in seen or len(seen) >= _MOST_PAGES:
            raise UnreachableError("the tracking server lists pages without end: restart it")
        seen.add(token)


def up_to(most: int, page_at: Callable[[str | None], Any]) -> list[Any]:
    """Return what is on the first pages, ``most`` at the most; see :func:`every`."""
    return list(islice(every(page_at), most))


def version_number(text: object) -> int:
    """Return a version's number, which MLflow gives as text.

    Raises:
        UnreachableError: it is none, so that the answer is not MLflow's.
    """
    try:
        return int(str(text))
    except ValueError:
        raise UnreachableError(
            f"the tracking server names version {shown(str(text))}, which is no number: is it "
            "MLflow's?"
        ) from None
