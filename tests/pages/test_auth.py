"""The pages of a server with users: MLflow's own permissions hold on them."""

import os
import subprocess
import sys

import pytest
import requests
from mlflow import MlflowClient

from mlflow_compress.registry import history
from tests.pages.conftest import ADMIN, BARRED, EDITOR, READER
from tests.pages.forms import Visitor, note_of
from tests.searched import NAME


@pytest.fixture
def aliases(guarded, monkeypatch):
    """Return a function that reads the aliases as the administrator."""
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", ADMIN[0])
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", ADMIN[1])
    return lambda: dict(MlflowClient(guarded).get_registered_model(NAME).aliases)


@pytest.mark.parametrize("user", [None, ("admin", "wrong"), ("nobody", "x")])
def test_who_is_not_logged_in_sees_and_does_nothing(guarded, aliases, user):
    before = aliases()
    visitor = Visitor(guarded, user)
    pages = [
        requests.get(f"{guarded}/compress", auth=user, timeout=60),
        visitor.get(),
        visitor.send("rollback", token="0" * 64, target="device"),
    ]
    assert [answer.status_code for answer in pages] == [401, 401, 403]
    assert pages[0].headers["www-authenticate"].startswith("Basic")
    assert not any("kiosk" in answer.text for answer in pages)
    assert aliases() == before


def test_who_is_barred_from_the_model_does_not_see_it(guarded):
    visitor = Visitor(guarded, BARRED)
    assert visitor.get().status_code == 403
    assert NAME not in requests.get(f"{guarded}/compress", auth=BARRED, timeout=60).text


def test_who_may_read_sees_and_cannot_promote(guarded, aliases):
    before = aliases()
    visitor = Visitor(guarded, READER)
    assert "kiosk" in visitor.get().text
    for action in ("promote", "rollback", "approve", "reject"):
        refused = visitor.send(action, target="device")
        assert refused.status_code == 403, action
        assert note_of(refused) == "Your user may not do this here."
    assert aliases() == before


def test_who_may_edit_promotes(guarded, aliases):
    done = Visitor(guarded, EDITOR).send("promote", target="server-cpu")
    assert note_of(done) == "Decided again."
    (decision,) = history(MlflowClient(guarded), NAME, "server-cpu")
    assert decision.by == EDITOR[0]
    done = Visitor(guarded, EDITOR).send("rollback", target="device")
    assert done.status_code == 409
    assert "no version before" in note_of(done)


@pytest.mark.parametrize(
    ("app", "settings", "told"),
    [
        ("compress", {"MLFLOW_AUTH_CONFIG_PATH": "auth.ini"}, "use --app-name compress-auth"),
        ("compress-auth", {}, "MLFLOW_FLASK_SERVER_SECRET_KEY"),
    ],
)
def test_settings_that_contradict_end_the_command_with_one_line(tmp_path, app, settings, told):
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("MLFLOW_", "_MLFLOW_"))}
    command = [sys.executable, "-m", "mlflow", "server", "--app-name", app, "--port", "1"]
    done = subprocess.run(
        command,
        cwd=tmp_path,
        env=clean | settings,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 1
    assert told in done.stderr
    assert "Traceback" not in done.stderr
