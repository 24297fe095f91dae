"""What is written and deleted is ours, and nothing else is."""

import os
import socket
import time
from pathlib import Path

import pytest
from click.testing import CliRunner

from mlflow_compress.base.checkpoints import checkpoint_folder
from mlflow_compress.base.files import MANIFEST, own_folder, replacing
from mlflow_compress.cli.main import cli
from mlflow_compress.errors import ConfigError
from mlflow_compress.search import StepCache
from mlflow_compress.search.cache import Entry, is_cached
from tests.tiny import tiny_model


def a_fifo(path):
    os.mkfifo(path)


def a_socket(path):
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(path))


def a_folder(path):
    path.mkdir()


def a_link(path):
    (path.parent / "real").write_text("old")
    path.symlink_to("real")


def a_dangling_link(path):
    path.symlink_to("nowhere")


KINDS = {
    "FIFO": a_fifo,
    "socket": a_socket,
    "folder": a_folder,
    "link": a_link,
    "link ": a_dangling_link,
}


@pytest.fixture
def here(tmp_path, monkeypatch):
    """The current folder: the path of a socket may have 108 bytes."""
    monkeypatch.chdir(tmp_path)
    return Path()


@pytest.mark.parametrize("kind", KINDS)
def test_only_files_are_replaced(here, kind):
    target = here / "out"
    KINDS[kind](target)
    before = target.lstat()
    with pytest.raises(ConfigError, match=f"out is a {kind.strip()}, and only"), replacing(target):
        raise AssertionError("it was written")
    assert target.lstat() == before
    assert not list(here.glob(".out*"))


def test_devices_are_not_replaced():
    with pytest.raises(ConfigError, match="is a device"), replacing(Path(os.devnull)):
        raise AssertionError("it was written")


COMMANDS = {
    "pack": ["pack", "in.onnx"],
    "unpack": ["unpack", "in.onnx"],
    "compress": ["compress", "in.onnx"],
    "report": ["report", "run"],
}


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("kind", ["folder", "FIFO", "link", "data"])
def test_every_command_that_writes_refuses_them(here, command, kind):
    (here / "in.onnx").write_bytes(tiny_model().SerializeToString())
    KINDS["folder" if kind == "data" else kind](here / ("out.data" if kind == "data" else "out"))
    done = CliRunner().invoke(cli, [*COMMANDS[command], "-o", "out", "--force"])
    assert done.exit_code == 2
    assert "only a file is replaced" in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_folder_of_ours_is_known_by_its_manifest(tmp_path):
    def never(path):
        return False

    own_folder(tmp_path / "a" / "b", "tests", never)
    (tmp_path / "a/b/anything").touch()
    own_folder(tmp_path / "a" / "b", "tests", never)
    with pytest.raises(ConfigError, match="is for tests, not for a queue"):
        own_folder(tmp_path / "a" / "b", "a queue", never)
    (tmp_path / "a/b" / MANIFEST).write_text("5")
    with pytest.raises(ConfigError, match="is for something else, not for tests"):
        own_folder(tmp_path / "a" / "b", "tests", never)


def test_checkpoints_that_nobody_came_back_for_go_and_nothing_else(tmp_path):
    name = "0123456789abcdef" * 2
    kept = checkpoint_folder(str(tmp_path / "kept"))
    for file in (f"{name}.pt", f"{name}.run", "best.pt", f"{name}.ckpt", f"{name}0.pt"):
        (kept / file).touch()
        os.utime(kept / file, (time.time() - 15 * 86400,) * 2)
    (kept / f"{name[::-1]}.pt").touch()
    assert checkpoint_folder(str(kept)) == kept
    left = {MANIFEST, "best.pt", f"{name}.ckpt", f"{name}0.pt", f"{name[::-1]}.pt"}
    assert {path.name for path in kept.iterdir()} == left


@pytest.mark.parametrize("names", [["best.pt"], ["0" * 32 + ".pt", "epoch1.pt"]])
def test_from_a_folder_with_checkpoints_of_others_nothing_is_deleted(tmp_path, names):
    for name in names:
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (0, 0))
    assert checkpoint_folder(str(tmp_path)) == tmp_path
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(names)


def test_the_cache_deletes_its_own_entries_only(tmp_path):
    cache = StepCache(tmp_path, 10_000)
    for name in ("mine.step", "mine.part", f"{'0' * 64}.step.bak"):
        (tmp_path / name).write_bytes(b"0" * 20_000)
        os.utime(tmp_path / name, (0, 0))
    for key in ("a" * 64, "b" * 64):
        cache.put(key, Entry(tiny_model(), {"w": "x" * 4_000}))
    left = sorted(path.name for path in tmp_path.iterdir())
    assert left == sorted([f"{'b' * 64}.step", "mine.step", "mine.part", f"{'0' * 64}.step.bak"])
    assert [path for path in left if is_cached(tmp_path / path)] == [f"{'b' * 64}.step"]
