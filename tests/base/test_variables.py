import os
import threading

from mlflow_compress.base.variables import variable

NAME = "MLFLOW_COMPRESS_TESTS_VARIABLE"


def test_it_is_what_it_was_when_the_last_thread_leaves(monkeypatch):
    monkeypatch.setenv(NAME, "before")
    entered, leave = threading.Event(), threading.Event()

    def hold():
        with variable(NAME, "in"):
            entered.set()
            leave.wait(30)

    other = threading.Thread(target=hold)
    with variable(NAME, "in"):
        other.start()
        assert entered.wait(30)
    assert os.environ[NAME] == "in"  # the other is still at it
    leave.set()
    other.join()
    assert os.environ[NAME] == "before"


def test_what_was_not_there_is_gone(monkeypatch):
    monkeypatch.delenv(NAME, raising=False)
    with variable(NAME, "in"):
        assert os.environ[NAME] == "in"
    assert NAME not in os.environ
