"""A store with a finished search, and servers with the pages on it: open, and with users."""

import os
import shutil
from unittest import mock

import mlflow
import pytest
import requests
from mlflow import MlflowClient

from tests.searched import NAME, search
from tests.servers import mlflow_server

ADMIN = ("admin", "correct horse battery")
READER = ("reader", "a reader's password")
EDITOR = ("editor", "an editor's password")
BARRED = ("barred", "a barred user's password")
USERS = {
    "MLFLOW_FLASK_SERVER_SECRET_KEY": "for tests",
    "MLFLOW_AUTH_ADMIN_USERNAME": ADMIN[0],
    "MLFLOW_AUTH_ADMIN_PASSWORD": ADMIN[1],
}


@pytest.fixture(scope="session")
def searched(migrated_database, tmp_path_factory):
    """The folder of a store with a finished search."""
    folder = tmp_path_factory.mktemp("searched")
    shutil.copy(migrated_database, folder / "mlflow.db")
    with mock.patch.dict(os.environ):
        os.environ.pop("MLFLOW_TRACKING_URI", None)
        search(folder, f"sqlite:///{folder / 'mlflow.db'}")
        mlflow.set_tracking_uri(None)
    return folder


def copied(searched, folder):
    """A store of its own; the artifacts stay where they are."""
    shutil.copy(searched / "mlflow.db", folder)
    return f"sqlite:///{folder / 'mlflow.db'}"


@pytest.fixture(scope="module")
def open_folder(tmp_path_factory):
    """The folder of the open server, with its log."""
    return tmp_path_factory.mktemp("open")


@pytest.fixture(scope="module")
def address(searched, open_folder):
    """An open server whose pages may promote."""
    store = copied(searched, open_folder)
    allowed = {"MLFLOW_COMPRESS_ALLOW_PROMOTION": "true"}
    with mlflow_server(open_folder, store, "--app-name", "compress", **allowed) as found:
        yield found


@pytest.fixture
def client(address):
    return MlflowClient(address)


@pytest.fixture(scope="module")
def guarded(searched, tmp_path_factory):
    """A server with users, whose pages may promote: one user may read, one may edit the model."""
    folder = tmp_path_factory.mktemp("guarded")
    store = copied(searched, folder)
    allowed = {"MLFLOW_COMPRESS_ALLOW_PROMOTION": "true"}
    with mlflow_server(folder, store, "--app-name", "compress-auth", **USERS, **allowed) as found:
        api = f"{found}/api"
        experiment = MlflowClient(store).get_experiment_by_name(NAME).experiment_id

        def post(path, body):
            requests.post(f"{api}/{path}", json=body, auth=ADMIN, timeout=60).raise_for_status()

        for name, password in (READER, EDITOR, BARRED):
            post("2.0/mlflow/users/create", {"username": name, "password": password})
        for name, permission in ((EDITOR[0], "EDIT"), (BARRED[0], "DENY")):
            for kind, place in (("registered_model", NAME), ("experiment", experiment)):
                grant = {"username": name, "resource_type": kind, "resource_id": place}
                post("3.0/mlflow/users/permissions/grant", grant | {"permission": permission})
        yield found
