"""Registered models and their versions, made once each, and the global URI that it takes."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import mlflow
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from mlflow_compress.errors import UnreachableError
from mlflow_compress.tracking.names import VARIANTS_TAG, quoted
from mlflow_compress.tracking.pages import every, version_number
from mlflow_compress.tracking.patience import patiently

__all__ = ["ensure_model", "first", "register_model", "using_tracking_uri", "versions_of"]

_PAGE = 200


@contextmanager
def using_tracking_uri(uri: str) -> Iterator[None]:
    """Make ``uri`` MLflow's global tracking URI for a moment, where its API takes no other.

    A client on a database looks up ``models:/m-…`` through the global URI.
    """
    before = mlflow.get_tracking_uri() if mlflow.is_tracking_uri_set() else None
    if before == uri:
        yield
        return
    mlflow.set_tracking_uri(uri)
    try:
        yield
    finally:
        mlflow.set_tracking_uri(before)


def register_model(
    client: MlflowClient, name: str, model_id: str, run_id: str, tags: Mapping[str, str]
) -> int:
    """Make a logged model a version of a registered model, once; return the version.

    Args:
        client: where the registry is.
        name: the registered model; made when it is missing.
        model_id: the logged model.
        run_id: the run that made it.
        tags: of the version.
    """

    def register() -> int:
        ensure_model(client, name)
        uri = f"models:/{model_id}"
        query = f"name = {quoted(name)} AND source_path = '{uri}'"
        found = versions_of(client, query)
        if not found:
            with using_tracking_uri(client.tracking_uri):
                client.create_model_version(
                    name, source=uri, run_id=run_id, tags=dict(tags), model_id=model_id
                )
            found = versions_of(client, query)
        return version_number(first(found, name).version)

    return patiently(f"register {name}", register)


def ensure_model(client: MlflowClient, name: str) -> Mapping[str, str]:
    """Make the registered model if there is none; return its tags."""
    try:
        return dict(client.create_registered_model(name, {VARIANTS_TAG: "yes"}).tags)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
        client.set_registered_model_tag(name, VARIANTS_TAG, "yes")
    return dict(client.get_registered_model(name).tags)


def versions_of(client: MlflowClient, query: str) -> list[Any]:
    """Return all matching versions, oldest first."""
    found = every(
        lambda token: client.search_model_versions(query, max_results=_PAGE, page_token=token)
    )
    return sorted(found, key=lambda version: version_number(version.version))


def first(found: Sequence[Any], name: str) -> Any:
    """Return the first version that was found; one was made just now.

    Raises:
        UnreachableError: none was found.
    """
    if not found:
        raise UnreachableError(f"the server took a version of {name!r}, and lists none")
    return found[0]
