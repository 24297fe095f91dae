"""Users without a home, and homes of nobody."""

import os

import pytest
from mlflow.deployments import get_deploy_client
from mlflow.exceptions import MlflowException

from mlflow_compress.base.home import from_home
from mlflow_compress.checkpoints import checkpoint_folder
from mlflow_compress.config import absolute_path
from mlflow_compress.errors import ConfigError

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


def test_a_user_without_a_home_has_to_name_a_folder_for_checkpoints(monkeypatch, tmp_path):
    for name in ("HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)  # as for a uid without an entry
    with pytest.raises(ConfigError, match="write the whole path"):
        checkpoint_folder(None)
    assert checkpoint_folder(str(tmp_path / "made")) == tmp_path / "made"
