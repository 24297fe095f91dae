"""What MLflow loads of this plugin by itself: the tags of every run, and ``mlflow compress``.

MLflow imports this module during ``import mlflow`` (entry point ``mlflow.run_context_provider``),
so that it must be quick, must not import mlflow in turn, and must never fail.
"""

from typing import Any

from mlflow_compress.mlflow_plugin.about import plugin_version

__all__ = ["CompressRunContext"]

VERSION_TAG = "compress.plugin_version"


class CompressRunContext:
    """Puts the plugin's version on runs and logged models (MLflow's provider protocol)."""

    def in_context(self) -> bool:
        """Take part in every run."""
        return True

    def tags(self) -> dict[str, str]:
        """Return the tags to add."""
        return {VERSION_TAG: plugin_version()}


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
