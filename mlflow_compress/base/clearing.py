"""What is done after a failure does not hide what failed."""

from contextlib import AbstractContextManager, suppress

from mlflow_compress.errors import UnreachableError

__all__ = ["clearing_up"]


def clearing_up() -> AbstractContextManager[None]:
    """Close runs and discard models while an error is on its way.

    That the server does not answer then is left unsaid: what came first says more, be it that very
    outage or a Ctrl-C in it.
    """
    return suppress(UnreachableError)
