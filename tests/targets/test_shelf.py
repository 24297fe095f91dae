"""What keeps models on a device: whole at every step, whatever fails."""

import contextlib
import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path

import pytest

from mlflow_compress.targets import shelf


def inside(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def received(tmp_path, monkeypatch):
    """Return a function that puts a version on the shelf in this process."""
    work = tmp_path / "received"
    work.mkdir()
    monkeypatch.chdir(work)

    def place(version, **told):
        content = version.encode() * 100
        Path("model.onnx").write_bytes(content)
        known = {"sha256": hashlib.sha256(content).hexdigest(), "profile": "portable"}
        return shelf.do(
            {
                **{"task": "place", "root": str(tmp_path / "device"), "name": "lenet"},
                **{"create": False, "check": False, "keep": 2, "delivery": version},
                **{"version_folder": version, "manifest": known},
                **told,
            }
        )

    return place


@dataclass
class Faults:
    """Let the n-th of the calls that change the disk fail."""

    at: int
    calls: int = 0

    def wrap(self, call):
        def wrapped(*args, **kwargs):
            self.calls += 1
            if self.calls == self.at:
                raise OSError(28, "No space left on device")
            return call(*args, **kwargs)

        return wrapped


CHANGES = ("fsync", "replace", "rename", "symlink", "mkdir", "unlink")


def test_a_fault_at_any_step_leaves_a_whole_version_running(tmp_path, monkeypatch, received):
    ended = []
    for at in range(1, 100):
        root = tmp_path / f"device{at}"
        received("v1", create=True, root=str(root))
        received("v2", root=str(root))
        faults = Faults(at)
        with monkeypatch.context() as patched, contextlib.suppress(OSError):
            for name in CHANGES:
                patched.setattr(os, name, faults.wrap(getattr(os, name)))
            received("v3", root=str(root))
        found = shelf.describe(root / "lenet")
        assert found["intact"]
        assert found["previous"] == {"v2": "v1", "v3": "v2"}[found["folder"]]
        ended.append(found["folder"])
        assert received("v3", root=str(root), delivery="again")["folder"] == "v3"
        assert inside(root / "lenet") == ["current", "v2", "v3"]
        if faults.calls < at:
            break
    # As long as the fault comes before the switch, what ran still runs; then all of it is done.
    assert ended.count("v2") >= 8
    assert ended[-1] == "v3"


def test_what_is_kept_and_how_far_a_rollback_goes(tmp_path, received):
    received("v1", create=True)
    received("v2")
    received("v3", keep=3)
    home = tmp_path / "device" / "lenet"
    told = {"task": "rollback", "root": str(tmp_path / "device"), "name": "lenet"}
    assert [shelf.do(told)["folder"] for _ in range(2)] == ["v2", "v1"]
    with pytest.raises(shelf.RefusedError, match="no version before"):
        shelf.do(told)
    received("v4")
    assert inside(home) == ["current", "v1", "v4"]
    received("v4", delivery="another")
    assert shelf.describe(home)["previous"] == "v1"
    (home / "v1" / "model.onnx").write_bytes(b"harmed")
    with pytest.raises(shelf.RefusedError, match="is damaged"):
        shelf.do(told)
    assert (home / "current" / "model.onnx").read_bytes() == b"v4" * 100


def everything(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def capistrano(home):
    (home / "releases/1").mkdir(parents=True)
    (home / "releases/1/app.py").write_text("theirs")
    (home / "current").symlink_to("releases/1")


def versions_of_others(home):
    (home / "1").mkdir(parents=True)
    (home / "1/manifest.json").write_text("{}")
    (home / "current").symlink_to("1")


def album(home):
    (home / "2024").mkdir(parents=True)
    (home / "2024/a.jpg").write_text("theirs")


def link(home):
    album(home.parent / "elsewhere")
    home.symlink_to(home.parent / "elsewhere")


@pytest.mark.parametrize("there", [capistrano, versions_of_others, album, link])
@pytest.mark.parametrize("task", ["create", "update", "delete", "rollback", "get"])
def test_what_no_deployment_made_is_not_touched(tmp_path, received, there, task):
    root = tmp_path / "device"
    root.mkdir()
    there(root / "lenet")
    before = everything(root)
    with pytest.raises(shelf.RefusedError):
        if task in ("create", "update"):
            received("v1", create=task == "create")
        else:
            shelf.do({"task": task, "root": str(root), "name": "lenet"})
    assert [path for path in everything(root) if path != ".lock"] == before
    assert shelf.do({"task": "list", "root": str(root)}) == {"deployments": []}


def test_what_lies_beside_versions_stays(tmp_path, received):
    root = tmp_path / "device"
    home = root / "lenet"
    received("v1", create=True)
    (home / "logs").mkdir()
    for name in ("logs/today", "notes.txt", "v1/labels.txt"):
        (home / name).write_text("theirs")
    (home / "photos").symlink_to(tmp_path)
    for version in ("v2", "v3", "v4"):
        received(version)
    assert inside(home) == ["current", "logs", "notes.txt", "photos", "v1", "v3", "v4"]
    assert shelf.do({"task": "delete", "root": str(root), "name": "lenet"}) == {"deleted": "lenet"}
    left = ["logs", "logs/today", "notes.txt", "photos", "v1", "v1/labels.txt"]
    assert everything(home) == left


@pytest.mark.parametrize("replaced", ["../elsewhere", "/etc", "..", "", 5, ["v1"]])
def test_a_manifest_leads_nowhere_else(tmp_path, received, replaced):
    received("v1", create=True)
    (tmp_path / "device" / "elsewhere").mkdir()
    (tmp_path / "device" / "elsewhere" / "model.onnx").touch()
    path = tmp_path / "device/lenet/v1/manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"replaced": replaced}))
    assert shelf.describe(tmp_path / "device/lenet")["previous"] is None
    assert received("v2")["previous"] == "v1"


def test_a_delete_that_was_cut_off_and_a_version_that_is_gone_are_mended(tmp_path, received):
    home = tmp_path / "device/lenet"
    received("v1", create=True)
    (home / "current").unlink()
    assert received("v2", create=True, delivery="2")["folder"] == "v2"
    assert inside(home) == ["current", "v2"]
    shelf.drop(home / "v2")
    assert received("v3")["intact"]
    (home / "v3/manifest.json").write_text("{")
    assert received("v4")["intact"]


def test_an_attempt_whose_answer_was_lost_may_come_again(received):
    first = received("v1", create=True)
    assert received("v1", create=True) == first
    with pytest.raises(shelf.RefusedError, match="already in") as caught:
        received("v1", create=True, delivery="another")
    assert caught.value.code == "exists"
