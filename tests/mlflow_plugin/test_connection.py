import socket

import pytest

from mlflow_compress.errors import CompressError, UnreachableError
from mlflow_compress.mlflow_plugin import connect
from mlflow_compress.mlflow_plugin.connection import ensure_experiment


def test_a_store_that_answers(store_uri):
    assert connect(store_uri).tracking_uri == store_uri


@pytest.fixture
def dead_port():
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        yield holder.getsockname()[1]


def test_a_dead_server(dead_port):
    uri = f"http://127.0.0.1:{dead_port}"
    with pytest.raises(UnreachableError) as caught:
        connect(uri, patience=0.2)
    told = "Connection refused: start it, or name another one with"
    assert str(caught.value).startswith(f"cannot reach tracking server {uri}: {told}")
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 5


def test_a_store_in_a_place_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UnreachableError, match="cannot be written"):
        connect(f"sqlite:///{tmp_path}/file/mlflow.db")
    with pytest.raises(UnreachableError, match="is a folder"):
        connect(f"sqlite:///{tmp_path}")


def test_a_file_that_is_no_database(tmp_path):
    path = tmp_path / "mlflow.db"
    path.write_text("this is no database, and long enough to be seen as none" * 20)
    with pytest.raises(UnreachableError, match="file is not a database") as caught:
        connect(f"sqlite:///{path}")
    assert "\n" not in str(caught.value)


def test_artifacts_go_beside_the_database(client, tmp_path, monkeypatch):
    monkeypatch.chdir("/")
    experiment = client.get_experiment(ensure_experiment(client, "lenet: edge"))
    assert experiment.artifact_location == str(tmp_path / "mlartifacts" / "lenet%3A edge")
    assert ensure_experiment(client, "lenet: edge") == experiment.experiment_id


def test_an_experiment_in_the_trash(client):
    client.delete_experiment(ensure_experiment(client, "old"))
    with pytest.raises(CompressError, match=r"experiment 'old' was deleted: restore it"):
        ensure_experiment(client, "old")
