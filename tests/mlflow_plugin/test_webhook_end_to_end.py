"""A version is registered at a real MLflow server; a real receiver has it promoted."""

import json
import shutil
import socket
import subprocess
import sys
import time
import urllib.request

import mlflow
import pytest
import yaml
from click.testing import CliRunner
from cryptography.fernet import Fernet
from mlflow import MlflowClient

from mlflow_compress.cli.main import cli
from tests.servers import free_port, mlflow_server, running
from tests.tiny import tiny_model

SECRET = "0123456789abcdef-not-to-be-seen"
WEBHOOKS = {
    "MLFLOW_WEBHOOK_ALLOWED_SCHEMES": "http,https",
    "MLFLOW_WEBHOOK_ALLOW_PRIVATE_IPS": "true",
    "MLFLOW_WEBHOOK_SECRET_ENCRYPTION_KEY": Fernet.generate_key().decode(),
    "MLFLOW_WEBHOOK_REQUEST_MAX_RETRIES": "0",
    "MLFLOW_DISABLE_TELEMETRY": "true",
}


@pytest.fixture(scope="module")
def server(migrated_database, tmp_path_factory):
    folder = tmp_path_factory.mktemp("server")
    shutil.copy(migrated_database, folder / "mlflow.db")
    with mlflow_server(folder, f"sqlite:///{folder / 'mlflow.db'}", **WEBHOOKS) as uri:
        yield uri


def command(*args):
    return CliRunner().invoke(cli, ["webhook", *args], env={"HOOK": SECRET})


def lines(log):
    found = [line for line in log.read_text().splitlines() if line.startswith("{")]
    return [json.loads(line) for line in found]


def until(condition, log, seconds=120):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        found = condition()
        if found:
            return found
        time.sleep(0.1)
    raise AssertionError(log.read_text())


def health(port):
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz", timeout=10) as answer:
        return json.load(answer)


def register_source(uri):
    mlflow.set_tracking_uri(uri)
    info = mlflow.onnx.log_model(
        tiny_model(), name="tiny", registered_model_name="tiny", save_as_external_data=False,
        pip_requirements=["onnx"],  # left out, MLflow loads the model to find them
    )  # fmt: skip
    version = str(info.registered_model_version)
    MlflowClient(uri).set_registered_model_alias("tiny", "champion", version)


def test_a_registered_version_is_promoted_though_the_receiver_dies(server, project, tmp_path):
    config = project.config | {"source": "models:/tiny@champion", "tracking_uri": server}
    (tmp_path / "compress.yaml").write_text(yaml.safe_dump(config))
    port, log = free_port(), tmp_path / "receiver.log"
    receiver = [
        *(sys.executable, "-m", "mlflow_compress", "webhook", "serve", "compress.yaml"),
        *("--port", str(port), "--secret-env", "HOOK", "--queue", "queue", "--no-catch-up"),
    ]
    ready = f"http://127.0.0.1:{port}/healthz"
    hook = ("--tracking-uri", server)
    with running([*receiver, "--settle", "3600"], log, ready=ready, HOOK=SECRET) as first:
        url = f"http://127.0.0.1:{port}/webhook"
        made = command("register", "--url", url, "--secret-env", "HOOK", *hook)
        assert (made.exit_code, made.stdout[:8]) == (0, "created:"), made.output
        tried = command("test", *hook)
        assert tried.exit_code == 0, tried.output
        assert "no configuration has this model as its source" in tried.stdout

        register_source(server)
        until(lambda: sum(one.get("status") == 202 for one in lines(log)) == 2, log)
        assert health(port)["queued"] == 1
        first.kill()
        first.wait()

    with running([*receiver, "--settle", "0"], log, ready=ready, HOOK=SECRET) as second:
        (done,) = until(lambda: [one for one in lines(log) if one["event"] == "job"], log)
        assert (done["exit_code"], done["result"]["error"], done["events"]) == (0, None, 2)
        client = MlflowClient(server)
        assert int(client.get_model_version_by_alias("tiny-edge", "device").version) == 1

        # Its own version and alias were told of too, and led to nothing.
        ignored = {"model_version.created", "model_version_alias.created"}
        until(lambda: ignored == {o["about"] for o in lines(log) if o.get("model") == "tiny-edge"
                                  and o["status"] == 200}, log)  # fmt: skip
        now = health(port)
        assert (now["status"], now["queued"], now["running"]) == ("ok", 0, [])
        assert now["last"]["exit_code"] == 0
        second.terminate()
        assert second.wait(timeout=60) == 0
    assert [one["event"] for one in lines(log)][-1] == "stopped"
    assert sum(one["event"] == "job" for one in lines(log)) == 1
    experiments = [one.experiment_id for one in client.search_experiments()]
    assert not client.search_runs(experiments, "attributes.status = 'RUNNING'")
    assert SECRET not in log.read_text()
    assert subprocess.run(["grep", "-rq", SECRET, "queue"], cwd=tmp_path).returncode == 1


def test_a_receiver_that_is_stopped_closes_its_job_s_runs_and_goes_on_later(project, tmp_path):
    # No server is needed: it catches up at its start.
    register_source(project.config["tracking_uri"])
    config, log, port = tmp_path / "compress.yaml", tmp_path / "receiver.log", free_port()
    receiver = [
        *(sys.executable, "-m", "mlflow_compress", "webhook", "serve", str(config)),
        *("--port", str(port), "--secret-env", "HOOK", "--queue", str(tmp_path / "queue")),
        *("--settle", "0"),
    ]
    ready = f"http://127.0.0.1:{port}/healthz"

    def write(rounds):
        search = {"latency_rounds": rounds, "workers": 1}
        changes = {"source": "models:/tiny@champion", "search": search}
        config.write_text(yaml.safe_dump(project.config | changes))

    def open_runs():
        experiments = [one.experiment_id for one in project.client.search_experiments()]
        return project.client.search_runs(experiments, "attributes.status = 'RUNNING'")

    write(2000)  # slow enough to be caught in the middle
    with running(receiver, log, ready=ready, HOOK=SECRET) as first:
        until(lambda: "searching" in log.read_text(), log)
        assert open_runs()
        (job,) = health(port)["running"]
        assert job["model"] == "tiny"
        first.terminate()
        assert first.wait(timeout=120) == 0
    assert open_runs() == []
    job, stopped = lines(log)[-2:]
    assert (job["exit_code"], job["result"]["exit_code"], job["again_in"]) == (130, 130, 0)
    assert (stopped["event"], stopped["queued"]) == ("stopped", 1)

    write(2)  # read anew with each job
    log.write_text("")
    with running([*receiver, "--no-catch-up"], log, ready=ready, HOOK=SECRET):
        (job,) = until(lambda: [one for one in lines(log) if one["event"] == "job"], log)
    assert (job["exit_code"], job["attempt"], job["result"]["skipped"]) == (0, 1, False)
    assert int(project.client.get_model_version_by_alias("tiny-edge", "device").version) == 1
    assert open_runs() == []


def hooks(client, name):
    return [one for one in client.list_webhooks() if one.name == name]


def test_a_webhook_is_made_once_and_kept_equal(server):
    client = MlflowClient(server)
    there = ("--tracking-uri", server, "--name", "twice", "--secret-env", "HOOK")
    urls = ["http://127.0.0.1:9/webhook", "http://127.0.0.1:8/webhook"]

    def said(url):
        done = command("register", *there, "--url", url)
        assert done.exit_code == 0, done.output
        assert SECRET not in done.output
        (one,) = hooks(client, "twice")
        assert (one.url, str(one.status)) == (url, "ACTIVE")
        assert sorted(map(str, one.events)) == [
            "model_version.created", "model_version_alias.created",
        ]  # fmt: skip
        return done.stdout.partition(":")[0]

    assert [said(url) for url in (urls[0], urls[0], urls[1])] == ["created", "kept", "updated"]
    (one,) = hooks(client, "twice")
    client.update_webhook(one.webhook_id, status="DISABLED", events=["prompt.created"])
    assert said(urls[1]) == "updated"
    client.create_webhook("twice", urls[0], ["model_version.created"])
    refused = command("register", *there, "--url", urls[0])
    assert refused.exit_code == 2
    assert "there are 2 webhooks 'twice'" in refused.stderr


def test_what_the_server_refuses_is_a_line_that_says_why(server):
    cases = {
        "Webhook name 'a b' is invalid": ("--name", "a b", "--url", "http://127.0.0.1:9/webhook"),
        "MLFLOW_WEBHOOK_ALLOWED_SCHEMES=http,https)": ("--url", "ftp://127.0.0.1/"),
        "must include a hostname": ("--url", "http:///webhook"),
    }
    for said, args in cases.items():
        done = command("register", "--tracking-uri", server, "--secret-env", "HOOK", *args)
        assert done.exit_code == 2, done.output
        assert said in done.stderr
        assert len(done.stderr.splitlines()) == 1


def test_trying_the_webhook_tells_what_is_wrong(server, project, tmp_path):
    there = ("--tracking-uri", server, "--name", "tried")
    absent = command("test", *there)
    assert (absent.exit_code, "webhook register" in absent.stderr) == (4, True)

    config = tmp_path / "compress.yaml"
    config.write_text(yaml.safe_dump(project.config | {"source": "models:/tiny@champion"}))
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    register = ("register", *there, "--secret-env", "HOOK", "--url")
    receiver = [
        *(sys.executable, "-m", "mlflow_compress", "webhook", "serve", str(config)),
        *("--port", str(port), "--secret-env", "HOOK", "--no-catch-up"),
        *("--queue", str(tmp_path / "q")),
    ]
    ready = f"{url}/healthz"
    assert command(*register, f"{url}/webhook").exit_code == 0
    with running(receiver, tmp_path / "log", ready=ready, HOOK="another-secret-than-that"):
        other = command("test", *there)
        assert (other.exit_code, "answers 401" in other.stderr) == (2, True), other.output
        assert command(*register, f"{url}/elsewhere").exit_code == 0
        lost = command("test", *there)
        assert (lost.exit_code, "answers 404" in lost.stderr) == (2, True), lost.output


def test_no_answer_is_out_of_reach(server):
    there = ("--tracking-uri", server, "--name", "dead")
    with socket.create_server(("127.0.0.1", 0)) as full:
        url = f"http://127.0.0.1:{full.getsockname()[1]}/webhook"
    assert command("register", *there, "--secret-env", "HOOK", "--url", url).exit_code == 0
    dead = command("test", *there)
    assert dead.exit_code == 5, dead.output
    assert "does not reach http://127.0.0.1" in dead.stderr
    nobody = command("test", "--tracking-uri", "sqlite:///mlflow.db")
    assert (nobody.exit_code, "sent by a tracking server" in nobody.stderr) == (2, True)
