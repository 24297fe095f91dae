"""The executors that come with the package keep the contract that a stranger's keeps."""

from pathlib import Path

import pytest

from mlflow_compress.search.clusters import Dask, Ray
from mlflow_compress.search.executors import Inline, Process
from mlflow_compress.testing import ExecutorContract


@pytest.fixture(scope="module", autouse=True)
def importable():
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
        yield


class TestInline(ExecutorContract):
    mortal = False

    @pytest.fixture(scope="class")
    @classmethod
    def executor_type(cls):
        return Inline


class TestProcess(ExecutorContract):
    @pytest.fixture(scope="class")
    @classmethod
    def executor_type(cls):
        return Process


class TestDask(ExecutorContract):
    @pytest.fixture(scope="class")
    @classmethod
    def executor_type(cls):
        return Dask


class TestRay(ExecutorContract):
    @pytest.fixture(scope="class")
    @classmethod
    def executor_type(cls):
        return Ray
