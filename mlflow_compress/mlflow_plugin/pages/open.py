"""``mlflow server --app-name compress``: MLflow's server with the pages, open as MLflow is.

MLflow imports this module in its own process before it starts any worker. What is refused here
ends the command with one line; refused in a worker it would be restarted for ever.
"""

import os
from typing import TYPE_CHECKING

import click

from mlflow_compress.mlflow_plugin.pages.server import with_pages

if TYPE_CHECKING:
    from fastapi import FastAPI

__all__ = ["create_app"]

_AUTH = "MLFLOW_AUTH_"


def _refuse_auth_settings() -> None:
    found = sorted(name for name in os.environ if name.startswith(_AUTH))
    if found:
        raise click.ClickException(
            f"{', '.join(found)} is set, but --app-name compress asks nobody who they are: use "
            "--app-name compress-auth, or unset it"
        )


_refuse_auth_settings()


def create_app() -> "FastAPI":
    """Return MLflow's app with the pages."""
    from mlflow.server.fastapi_app import app

    return with_pages(app)
