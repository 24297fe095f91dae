"""Users without a home, homes of nobody, and names that are no text."""

import os
from pathlib import Path

import pytest
from mlflow.deployments import get_deploy_client
from mlflow.exceptions import MlflowException

from mlflow_compress.base.checkpoints import checkpoint_folder
from mlflow_compress.base.paths import from_home
from mlflow_compress.config.compress import absolute_path, absolute_store
from mlflow_compress.errors import ConfigError

STORE = "sqlite:///mlflow.db"
NOBODY = "~no-such-user-here/x"


def test_a_path_from_home_is_that(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert from_home("~/a") == tmp_path / "a"
    assert str(from_home("a/~b")) == "a/~b"


def test_every_path_that_may_begin_at_home_says_where_it_leads_nowhere(tmp_path):
    for read in (from_home, lambda path: absolute_path(path, tmp_path)):
        with pytest.raises(ConfigError, match=f"{NOBODY}: no such home folder is known"):
            read(NOBODY)
    with pytest.raises(MlflowException, match=f"{NOBODY}: no such home folder is known"):
        get_deploy_client(f"edge:{NOBODY}")


def test_a_name_that_is_no_text_is_refused_where_it_would_be_recorded(tmp_path):
    odd = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff"))
    for read in (lambda: absolute_path("m.onnx", odd), lambda: absolute_store(STORE, odd)):
        with pytest.raises(ConfigError, match=r"\\udcff.*bytes are not UTF-8.*: rename it"):
            read()


def test_a_folder_whose_name_would_end_a_store_s_path_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"a\?b' has a '\?' in its name.*: rename it"):
        absolute_store(STORE, tmp_path / "a?b")
    elsewhere = f"sqlite:///{tmp_path}/mlflow.db?timeout=5"
    assert absolute_store(elsewhere, tmp_path / "a?b") == elsewhere


def test_a_user_without_a_home_has_to_name_a_folder_for_checkpoints(monkeypatch, tmp_path):
    for name in ("HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)  # as for a uid without an entry
    with pytest.raises(ConfigError, match="write the whole path"):
        checkpoint_folder(None)
    assert checkpoint_folder(str(tmp_path / "made")) == tmp_path / "made"
