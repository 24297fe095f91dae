"""The tracking server or store: reached, or one line that says why not."""

import os
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote

import mlflow
import requests
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.store.db.utils import create_sqlalchemy_engine
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from mlflow_compress.errors import CompressError, UnreachableError
from mlflow_compress.tracking.answers import bound_answers
from mlflow_compress.tracking.patience import (
    PATIENCE,
    is_lasting,
    one_line,
    patiently,
    without_password,
)

__all__ = ["connect", "ensure_experiment"]

_SQLITE = "sqlite:///"
_DATABASES = ("postgresql", "mysql", "sqlite")
# What PostgreSQL and MySQL say where waiting does not help.
_REFUSED = (
    "authentication failed",
    "does not exist",
    "no pg_hba.conf entry",
    "Access denied",
    "Unknown database",
)
# MLflow retries each HTTP request 7 times over minutes. This project retries what it does as a
# whole, for a bounded time; a setting that the user made stays.
_DEFAULTS = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
    # A server may ask to wait for a day; how long to wait is said here.
    "MLFLOW_HTTP_RESPECT_RETRY_AFTER_HEADER": "false",
    # Its bars for single small files would write over this project's own.
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    # It prints a link for each run that ends, into what a job says on stdout.
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}


def connect(tracking_uri: str | None = None, *, patience: float = 10.0) -> MlflowClient:
    """Return a client of a tracking server or store that was found to answer.

    Args:
        tracking_uri: ``http(s)://…``, ``sqlite:///…`` or another database; MLflow's current
            one by default.
        patience: seconds to wait for a server that does not answer.

    Raises:
        UnreachableError: the server or the registry does not answer, or the store cannot be
            written.
    """
    uri = tracking_uri or mlflow.get_tracking_uri()
    for name, value in _DEFAULTS.items():
        os.environ.setdefault(name, value)
    bound_answers()
    if uri.startswith(_SQLITE):
        _check_writable(uri)
    if uri.startswith(("http://", "https://")):
        try:
            patiently(f"reach tracking server {uri}", lambda: _check_health(uri), patience)
        except UnreachableError as error:
            advice = "start it, or name another one with MLFLOW_TRACKING_URI or tracking_uri"
            raise UnreachableError(f"{error}: {advice}") from error
    if uri.startswith(_DATABASES):
        what = f"reach tracking store {without_password(uri)}"
        try:
            patiently(what, lambda: _check_database(uri), patience)
        except UnreachableError as error:
            start = "" if uri.startswith(_SQLITE) else "start it, or "
            advice = f"{start}mend MLFLOW_TRACKING_URI or tracking_uri"
            raise UnreachableError(f"{without_password(str(error))}: {advice}") from error
    client = _opened(
        f"tracking store {without_password(uri)}",
        lambda: MlflowClient(uri),
        lambda client: client.search_experiments(max_results=1),
        patience,
    )
    if registry := os.environ.get("MLFLOW_REGISTRY_URI"):  # which MLflow opens without a look
        _opened(
            f"model registry {without_password(registry)} (MLFLOW_REGISTRY_URI)",
            lambda: client,
            lambda client: client.search_registered_models(max_results=1),
            patience,
        )
    return client


def _opened(
    what: str,
    opening: Callable[[], MlflowClient],
    asking: Callable[[MlflowClient], object],
    patience: float,
) -> MlflowClient:
    """Return a client that got an answer."""
    try:
        client = opening()
        patiently(f"open {what}", lambda: asking(client), patience)
    except (MlflowException, SQLAlchemyError, ImportError) as error:
        text = without_password(one_line(error))
        raise UnreachableError(f"cannot open {what}: {text}") from error
    return client


def _check_health(uri: str) -> None:
    with requests.get(f"{uri.rstrip('/')}/health", timeout=5, stream=True) as answer:
        if answer.status_code >= 500:  # what it says beside is not read
            raise requests.HTTPError(f"/health answers {answer.status_code}")


def _check_database(uri: str) -> None:
    """Connect once as MLflow does, which would try ten times, without a word.

    Raises:
        ConnectionError: the database does not answer.
        UnreachableError: it refuses this user or does not have this database.
    """
    try:
        engine = create_sqlalchemy_engine(uri)
        try:
            engine.connect().close()
        finally:
            engine.dispose()
    except DBAPIError as error:
        text = one_line(error.orig or error)
        if is_lasting(error) or any(words in text for words in _REFUSED):
            raise UnreachableError(f"cannot open the database: {text}") from error
        raise ConnectionError(text) from error
    except (ImportError, SQLAlchemyError, TypeError, ValueError):
        return  # a driver that is missing, an address that is none: MLflow says it itself


def _check_writable(uri: str) -> None:
    """Refuse a database that cannot be made or written, before MLflow retries for a minute."""
    path = Path(uri.removeprefix(_SQLITE)).absolute()
    if str(path).endswith(":memory:"):
        return
    place = path
    while not place.exists() and place != place.parent:
        place = place.parent
    if path.is_dir() or (place != path and not place.is_dir()) or not os.access(place, os.W_OK):
        what = "is a folder" if path.is_dir() else f"{place} cannot be written"
        raise UnreachableError(f"cannot open tracking store {uri}: {what}")


def ensure_experiment(client: MlflowClient, name: str, patience: float = PATIENCE) -> str:
    """Return the id of an experiment, which is made when it is missing.

    With a local sqlite store the artifacts go beside the database, wherever the job runs.

    Raises:
        CompressError: the experiment is in MLflow's trash.
        UnreachableError: the server does not answer for ``patience`` seconds.
    """
    return patiently(f"find experiment {name!r}", lambda: _experiment_id(client, name), patience)


def _experiment_id(client: MlflowClient, name: str) -> str:
    for _ in range(2):
        found = client.get_experiment_by_name(name)
        if found is not None and found.lifecycle_stage == "deleted":
            raise CompressError(
                f"experiment {name!r} was deleted: restore it "
                f"(mlflow experiments restore -x {found.experiment_id}) or name another"
            )
        if found is not None:
            return str(found.experiment_id)
        try:
            return str(client.create_experiment(name, artifact_location=_artifacts(client, name)))
        except MlflowException as error:
            # Another job has made it in the meantime.
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
    raise CompressError(f"experiment {name!r} cannot be made or found")


def _artifacts(client: MlflowClient, name: str) -> str | None:
    uri = str(client.tracking_uri)
    if not uri.startswith(_SQLITE) or uri.endswith(":memory:"):
        return None
    database = Path(uri.removeprefix(_SQLITE)).absolute()
    return str(database.parent / "mlartifacts" / quote(name, safe=" "))
