"""The receiver over real HTTP: what it answers, and what it keeps to itself."""

import contextlib
import json
import socket
import threading
import time

import pytest
import requests
import yaml
from click.testing import CliRunner

from mlflow_compress.cli.main import cli
from mlflow_compress.mlflow_plugin.webhook import heads
from mlflow_compress.mlflow_plugin.webhook import receiver as module
from mlflow_compress.mlflow_plugin.webhook.queue import JobQueue
from mlflow_compress.mlflow_plugin.webhook.signature import Secret, sign
from mlflow_compress.mlflow_plugin.webhook.watched import Watched
from mlflow_compress.mlflow_plugin.webhook.worker import Worker
from tests.servers import free_port

SECRET = Secret("0123456789abcdef-not-to-be-seen")
CREATED = {
    "entity": "model_version",
    "action": "created",
    "data": {"name": "lenet", "version": "1"},
}


def broken(happened):
    raise OSError(28, "No space left on device")


class Receiver:
    """A receiver whose jobs wait for an hour."""

    def __init__(self, folder, limit, log=None):
        self.said = []
        log = log or self.said.append
        watched = [
            Watched("a", folder / "a.yaml", "lenet", "lenet-edge"),
            Watched("b", folder / "b.yaml", "resnet", "resnet-edge"),
        ]
        models = {one.key: one.model for one in watched}
        self.queue = JobQueue(folder / "q", models, limit=limit, settle=3600)
        self.worker = Worker(self.queue, watched, log, command=["false"])
        app = module.application(watched, SECRET, self.queue, self.worker, log)
        self.server = module.server_of(app)
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.address = f"http://127.0.0.1:{self.socket.getsockname()[1]}"
        self.thread = threading.Thread(target=self.server.run, args=([self.socket],))

    def deliver(self, event=CREATED, *, delivery="d-1", secret=SECRET, age=0, path="/webhook"):
        body = event if isinstance(event, bytes) else json.dumps(event).encode()
        timestamp = str(int(time.time()) - age)
        headers = {
            "X-MLflow-Delivery-Id": delivery,
            "X-MLflow-Timestamp": timestamp,
            "X-MLflow-Signature": sign(secret, delivery, timestamp, body),
        }
        answer = requests.post(self.address + path, data=body, headers=headers, timeout=60)
        assert SECRET.text not in answer.text
        return answer

    def queued(self):
        return [job.key for job in self.queue.waiting()]


@pytest.fixture
def start(tmp_path):
    started = []

    def begin(limit=100, log=None):
        one = Receiver(tmp_path, limit, log)
        started.append(one)
        one.thread.start()
        return one

    yield begin
    for one in started:
        one.server.should_exit = True
        one.thread.join(timeout=60)
        one.queue.close()
        assert SECRET.text not in json.dumps(one.said)


@pytest.fixture
def receiver(start):
    return start()


def of(name, about="model_version.created"):
    entity, action = about.split(".")
    return {"entity": entity, "action": action, "data": {"name": name, "version": "1"}}


def test_a_delivery_is_queued(receiver):
    answer = receiver.deliver()
    assert (answer.status_code, answer.json()) == (202, {"status": "queued"})
    assert receiver.queued() == ["a"]
    assert receiver.said == [{
        "event": "delivery", "status": 202, "delivery": "d-1",
        "about": "model_version.created", "model": "lenet", "answer": "queued",
    }]  # fmt: skip


def test_a_log_that_fails_changes_no_answer(start):
    receiver = start(log=broken)
    assert receiver.deliver().status_code == 202
    assert receiver.queued() == ["a"]
    assert receiver.deliver(age=301).status_code == 401


def test_a_replay_is_dropped(receiver):
    receiver.deliver()
    answer = receiver.deliver()
    assert (answer.status_code, answer.json()) == (200, {"status": "came before"})
    (job,) = receiver.queue.waiting()
    assert job.events == 1


@pytest.mark.parametrize("event", [
    of("lenet-edge"), of("lenet-edge", "model_version_alias.created"), of("resnet2"),
    of("lenet", "model_version_tag.set"), of("lenet", "prompt.created"),
])  # fmt: skip
def test_what_changes_no_source_starts_nothing(receiver, event):
    answer = receiver.deliver(event)
    assert answer.status_code == 200
    assert answer.json()["status"].startswith("ignored: ")
    assert receiver.queued() == []


@pytest.mark.parametrize(("changes", "status"), [
    ({"secret": Secret("0123456789abcdef-of-another")}, 401), ({"age": 301}, 401),
    ({"age": -302}, 401), ({"event": b"{}"}, 400), ({"path": "/"}, 404),
    ({"path": "/webhook/x"}, 404), ({"path": "/healthz"}, 405),
])  # fmt: skip
def test_the_rest_is_refused(receiver, changes, status):
    assert receiver.deliver(**changes).status_code == status
    assert receiver.queued() == []


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE"])
def test_deliveries_are_posted(receiver, method):
    answer = requests.request(method, f"{receiver.address}/webhook", timeout=60)
    assert answer.status_code == 405


def test_unsigned_is_refused_and_told(receiver):
    answer = requests.post(f"{receiver.address}/webhook", data=b"x" * 100, timeout=60)
    assert answer.status_code == 401
    (line,) = receiver.said
    assert (line["status"], line["from"]) == (401, "127.0.0.1")
    assert "xxx" not in json.dumps(line)


def test_a_full_queue_asks_to_try_again(start):
    receiver = start(limit=1)
    assert receiver.deliver(of("resnet")).status_code == 202
    answer = receiver.deliver(delivery="d-2")
    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "5")
    assert "the queue is full" in answer.json()["error"]
    assert receiver.queued() == ["b"]


def test_a_queue_that_cannot_be_written_asks_to_try_again(receiver, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(JobQueue, "_write", full)
        answer = receiver.deliver()
    assert (answer.status_code, receiver.queued()) == (503, [])
    assert receiver.deliver().status_code == 202


def test_a_body_that_is_too_large_is_refused_unread(receiver, monkeypatch):
    monkeypatch.setattr(module, "BODY_LIMIT", 1000)
    url = f"{receiver.address}/webhook"
    assert receiver.deliver(CREATED | {"data": "x" * 1000}).status_code == 413
    # without a length before it, too
    assert requests.post(url, data=iter([b"x" * 600] * 2), timeout=60).status_code == 413
    assert receiver.deliver().status_code == 202


def test_a_length_that_is_announced_is_refused_before_the_body_comes(receiver):
    host, port = receiver.address.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=60) as connection:
        connection.sendall(b"POST /webhook HTTP/1.1\r\nHost: x\r\nContent-Length: 1048577\r\n\r\n")
        assert b" 413 " in connection.recv(100)


def test_a_body_that_does_not_come_is_given_up(receiver, monkeypatch):
    monkeypatch.setattr(module, "BODY_SECONDS", 0.1)
    host, port = receiver.address.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=60) as connection:
        connection.sendall(b"POST /webhook HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nx")
        assert b" 408 " in connection.recv(100)


def connect(receiver):
    host, port = receiver.address.removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)), timeout=60)


HEALTH = b"GET /healthz HTTP/1.1\r\nHost: x\r\n"


@pytest.mark.parametrize("sent", [b"", HEALTH])
def test_connections_that_send_no_whole_head_lock_nobody_out(start, monkeypatch, sent):
    monkeypatch.setattr(module, "_CONNECTIONS", 4)
    monkeypatch.setattr(heads, "HEAD_SECONDS", 3)
    receiver = start()
    with contextlib.ExitStack() as open_ones:
        idle = [open_ones.enter_context(connect(receiver)) for _ in range(3)]
        for connection in idle:
            connection.sendall(sent)
        full = requests.get(f"{receiver.address}/healthz", timeout=60)
        assert full.status_code == 503
        for connection in idle:
            assert connection.recv(100) == b""
        assert receiver.deliver().status_code == 202


def test_the_head_of_a_second_request_must_be_there_in_time_too(receiver, monkeypatch):
    monkeypatch.setattr(heads, "HEAD_SECONDS", 0.5)
    with connect(receiver) as connection:
        connection.sendall(HEALTH + b"\r\n")
        answer = b""
        while not answer.endswith(b"}"):
            answer += connection.recv(4096)
        connection.sendall(HEALTH)
        assert connection.recv(100) == b""


def test_what_is_at_work_is_not_cut_off(receiver, monkeypatch):
    monkeypatch.setattr(heads, "HEAD_SECONDS", 0.2)
    real = receiver.queue.waiting

    def slow():
        time.sleep(1)
        return real()

    monkeypatch.setattr(receiver.queue, "waiting", slow)
    assert requests.get(f"{receiver.address}/healthz", timeout=60).status_code == 200


def test_health_says_how_it_stands_and_no_more(receiver):
    receiver.deliver()
    answer = requests.get(f"{receiver.address}/healthz", timeout=60)
    found = answer.json()
    assert answer.status_code == 200
    assert (found["status"], found["queued"], found["running"], found["last"]) == (
        "ok", 1, [], None,
    )  # fmt: skip
    assert "yaml" not in answer.text
    receiver.worker.stop()
    dead = requests.get(f"{receiver.address}/healthz", timeout=60)
    assert dead.status_code == 503
    assert dead.json()["status"] != "ok"


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "compress.yaml"
    path.write_text(yaml.safe_dump({
        "source": "models:/lenet@champion", "data": {"evaluation": "rows.npz"},
        "tracking_uri": "http://127.0.0.1:1", "recipe": ["prune"],
    }))  # fmt: skip
    return path


def serve(*args):
    return CliRunner().invoke(cli, ["webhook", "serve", *map(str, args)], env={"HOOK": SECRET.text})


def test_what_cannot_be_served_is_refused_in_one_line(config, tmp_path):
    known, queue = ("--secret-env", "HOOK"), ("--queue", tmp_path / "q")
    free = ("--port", free_port())
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        cases = {
            "cannot listen on 127.0.0.1:": (config, *known, *queue, "--port", port),
            "config absent.yaml: No such file": ("absent.yaml", *free, *known, *queue),
            "--secret-env NAME or": (config, *queue),
            "queue folder": (config, *free, *known, "--queue", config / "q"),
        }
        for said, args in cases.items():
            done = serve(*args)
            (line,) = done.stderr.strip().splitlines()[-1:]
            assert (done.exit_code, said in line) == (2, True), done.output
            assert SECRET.text not in done.output


def test_what_waits_for_a_configuration_is_named_at_the_start(tmp_path, monkeypatch):
    class Server:
        def run(self, sockets):
            pass

    monkeypatch.setattr(module, "server_of", lambda app: Server())
    one, other = (Watched(key, tmp_path / key, "lenet", "lenet-edge") for key in ("a", "b"))
    settings = module.Settings(queue=tmp_path / "q", port=0)
    said = []
    for watched in ([one, other], [one], [one, other]):
        module.serve(watched, SECRET, settings, said.append)
    assert [line["event"] for line in said] == [
        *("listening", "stopped"), *("listening", "kept", "stopped"), *("listening", "stopped"),
    ]  # fmt: skip
    assert said[3]["jobs"] == ["b"]
    assert [line["queued"] for line in said if line["event"] == "stopped"] == [2, 1, 2]
