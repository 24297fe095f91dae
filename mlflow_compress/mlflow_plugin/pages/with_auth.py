"""``mlflow server --app-name compress-auth``: MLflow's server with users, and the pages.

MLflow imports this module in its own process before it starts any worker, where it does for
``basic-auth`` by name what is done here: settings that are wrong end the command with one line.
"""

from typing import TYPE_CHECKING

import click
from mlflow.exceptions import MlflowException

from mlflow_compress.mlflow_plugin.pages.server import with_pages
from mlflow_compress.tracking.patience import one_line

if TYPE_CHECKING:
    from fastapi import FastAPI

__all__ = ["create_app"]


def _check_settings() -> None:
    """Refuse settings that the app cannot start with, and make the admin user.

    Raises:
        click.ClickException: one line.
    """
    try:
        from mlflow.server import auth
        from mlflow.server.auth.config import DEFAULT_AUTHORIZATION_FUNCTION

        auth.get_flask_server_secret_key()
        auth.bootstrap_admin_user()
    except (ImportError, MlflowException) as error:
        raise click.ClickException(f"--app-name compress-auth: {one_line(error)}") from error
    function = auth.auth_config.authorization_function
    if function != DEFAULT_AUTHORIZATION_FUNCTION:
        raise click.ClickException(
            f"--app-name compress-auth knows MLflow's basic authentication only, not "
            f"authorization_function = {function}: use --app-name basic-auth without the pages"
        )


_check_settings()


def create_app() -> "FastAPI":
    """Return MLflow's app with authentication and the pages."""
    from mlflow.server.auth import create_app as create_auth_app

    return with_pages(create_auth_app(), auth=True)
