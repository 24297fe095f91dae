import itertools
import json
import socket
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from sqlalchemy.exc import OperationalError

from mlflow_compress.errors import CompressError, UnreachableError
from mlflow_compress.mlflow_plugin import connect
from mlflow_compress.registry import read_state
from mlflow_compress.tracking import answers
from mlflow_compress.tracking import client as connection
from mlflow_compress.tracking.client import ensure_experiment


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


@pytest.mark.parametrize("kind", ["postgresql+psycopg2", "mysql+pymysql"])
def test_a_dead_database_is_not_tried_ten_times(dead_port, kind):
    pytest.importorskip(kind.partition("+")[2])
    uri = f"{kind}://user:secret@127.0.0.1:{dead_port}/mlflow"
    with pytest.raises(UnreachableError, match=r"refused.*: start it, or mend") as caught:
        connect(uri, patience=0.2)
    assert "secret" not in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "said",
    [
        'FATAL:  password authentication failed for user "user"',
        'FATAL:  database "mlflow" does not exist',
        "(1045, \"Access denied for user 'user'\")",
        "(1049, \"Unknown database 'mlflow'\")",
        "unable to open database file",  # as where no file handle is left
    ],
)
def test_a_database_that_refuses_is_asked_once(monkeypatch, said, tmp_path):
    asked = []

    class Engine:
        def dispose(self):
            pass

        def connect(self):
            asked.append(1)
            raise OperationalError("connect", {}, RuntimeError(said))

    monkeypatch.setattr(connection, "create_sqlalchemy_engine", lambda _: Engine())
    with pytest.raises(UnreachableError, match=r"cannot open the database: .*: start it, or mend"):
        connect("postgresql://user:secret@127.0.0.1/mlflow", patience=30)
    with pytest.raises(UnreachableError, match="cannot open the database"):
        connect(f"sqlite:///{tmp_path}/mlflow.db", patience=30)
    assert asked == [1, 1]


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


@contextmanager
def server_of(body, headers=(), status=200):
    """A server that is healthy, and answers everything else with a body given in parts."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            self.send_response(status if self.path != "/health" else 200)
            for name, value in headers:
                self.send_header(name, value)
            self.end_headers()
            try:
                for part in body() if self.path != "/health" else [b"OK"]:
                    self.wfile.write(part)
                    self.wfile.flush()
            except OSError:
                gone.set()

        do_POST = do_GET  # noqa: N815 - as the library calls it

        def log_message(self, *_):
            pass

    gone = threading.Event()
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", gone
        finally:
            gone.set()
            server.shutdown()


@pytest.mark.parametrize("part", [b"x" * 65536, b" " * 100], ids=["large", "small"])
def test_an_answer_without_end_is_one_line(monkeypatch, part):
    monkeypatch.setattr(answers, "_MOST_BYTES", 1 << 20)
    with server_of(lambda: itertools.repeat(part)) as (uri, gone):
        with pytest.raises(UnreachableError, match="the answer is longer than 1 MiB") as caught:
            connect(uri, patience=0.1)
        assert gone.wait(60)  # the line is cut, and nothing of it is read on
    assert "\n" not in str(caught.value)


def test_an_answer_that_drips_is_one_line(monkeypatch):
    monkeypatch.setattr(answers, "_SECONDS", 1)
    told = r"the answer comes too slowly, \d+ bytes in 1 s"
    dripping = server_of(lambda: (gone.wait(0.2) or b" " for _ in itertools.count()))
    with dripping as (uri, gone), pytest.raises(UnreachableError, match=told):
        connect(uri, patience=0.1)


def test_an_answer_that_is_cut_is_one_line():
    cut = server_of(lambda: [b'{"exp'], [("Content-Length", "1000")])
    with cut as (uri, _), pytest.raises(UnreachableError, match="IncompleteRead") as caught:
        connect(uri, patience=0.1)
    assert "\n" not in str(caught.value)


def says(answer):
    body = json.dumps(answer).encode()
    return server_of(lambda: [body], [("Content-Length", str(len(body)))])


@pytest.mark.parametrize("answer", [{"experiments": 5}, {"experiments": [{"tags": "x"}]}, [1], "x"])
def test_an_answer_that_is_not_mlflow_s_is_one_line(answer):
    with says(answer) as (uri, _), pytest.raises(UnreachableError) as caught:
        connect(uri, patience=0.1)
    assert "cannot open tracking store" in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("version", ["", "x", None])
def test_a_version_that_is_no_number_is_one_line(version):
    answer = {"registered_model": {"name": "toy"}, "model_versions": [{"name": "toy"}]}
    if version is not None:
        answer["model_versions"][0]["version"] = version
    with says(answer) as (uri, _):
        client = connect(uri, patience=0.1)
        with pytest.raises(UnreachableError, match=r"names version '.*', which is no number"):
            read_state(client, "toy", patience=0.1)


def test_pages_without_end_are_one_line():
    answer = {"registered_model": {"name": "toy"}, "next_page_token": "again"}
    with says(answer) as (uri, _):
        client = connect(uri, patience=0.1)
        with pytest.raises(UnreachableError, match="lists pages without end"):
            read_state(client, "toy", patience=0.1)


def test_a_server_that_says_to_wait_for_a_day_is_not_waited_for(monkeypatch):
    monkeypatch.delenv("MLFLOW_HTTP_RESPECT_RETRY_AFTER_HEADER", raising=False)
    headers = [("Retry-After", "86400"), ("Content-Length", "4")]
    busy = server_of(lambda: [b"wait"], headers, status=429)
    with busy as (uri, _), pytest.raises(UnreachableError):
        connect(uri, patience=0.1)


def test_a_health_without_end_is_not_read():
    with server_of(lambda: itertools.repeat(b"x" * 65536)) as (uri, gone):
        connection._check_health(f"{uri}/behind")
        assert gone.wait(60)
