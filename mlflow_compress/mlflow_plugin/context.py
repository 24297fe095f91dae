"""What MLflow loads of this plugin by itself: tags of runs, request headers, ``mlflow compress``.

MLflow imports this module during ``import mlflow`` (entry points ``mlflow.run_context_provider``
and ``mlflow.request_header_provider``), so that it must be quick, must not import mlflow in turn,
and must never fail.
"""

from collections.abc import Mapping
from contextvars import ContextVar
from typing import Any

from mlflow_compress.base.about import plugin_version
from mlflow_compress.tracking.names import PLUGIN_VERSION

__all__ = ["FORWARDED", "VISITOR", "CompressRunContext", "ForwardedHeaders"]

FORWARDED: ContextVar[Mapping[str, str] | None] = ContextVar("forwarded", default=None)
"""Headers that MLflow's client sends while a page speaks for the person who looks at it."""

VISITOR: ContextVar[str] = ContextVar("visitor", default="")
"""The person's user name; empty where nobody was asked to log in."""


class CompressRunContext:
    """Puts the plugin's version on runs and logged models (MLflow's provider protocol).

    What a visitor does on the pages is marked with their name in place of the server's process's.
    """

    def in_context(self) -> bool:
        """Take part in every run."""
        return True

    def tags(self) -> dict[str, str]:
        """Return the tags to add."""
        tags = {PLUGIN_VERSION: plugin_version()}
        if visitor := VISITOR.get():
            tags["mlflow.user"] = visitor
        return tags


class ForwardedHeaders:
    """Lets the pages speak to their server as the visitor (MLflow's provider protocol)."""

    def in_context(self) -> bool:
        """Take part only while a page is made."""
        return FORWARDED.get() is not None

    def request_headers(self) -> dict[str, str]:
        """Return the headers to add."""
        return dict(FORWARDED.get() or {})


def _add_command(module: Any) -> None:
    """Give ``mlflow`` the group ``compress``, the same as ``mlflow-compress``."""
    try:
        from mlflow_compress.cli.main import cli

        module.cli.add_command(cli, name="compress")
    except Exception:  # noqa: BLE001 - MLflow's own command line must work whatever happens here
        return


def _watch_for_cli() -> None:
    """Ask MLflow to call back when its command line is imported.

    There is no entry point for commands; the hook is internal to MLflow, so that its absence
    is no error: ``mlflow-compress`` is there all the same.
    """
    try:
        from mlflow.utils.import_hooks import register_post_import_hook

        register_post_import_hook(_add_command, "mlflow.cli", overwrite=True)
    except Exception:  # noqa: BLE001 - see above
        return


_watch_for_cli()
