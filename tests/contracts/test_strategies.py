"""The core's own strategies keep the contract that a stranger's keeps."""

from functools import partial

import pytest

from mlflow_compress.search import get_strategy
from mlflow_compress.testing import StrategyContract


class Core(StrategyContract):
    @pytest.fixture
    def strategy(self):
        return partial(get_strategy, self.name)


class TestRandom(Core):
    name = "random"


class TestGrid(Core):
    name = "grid"


class TestManual(Core):
    name = "manual"
    space = [[{"share": {"clusters": n}}] for n in (4, 8, 16, 32)]


class TestTpe(Core):
    name = "tpe"


class TestNsga2(Core):
    name = "nsga2"


class TestEvolution(Core):
    name = "evolution"


class TestGp(Core):
    name = "gp"

    @pytest.fixture(autouse=True)
    def _one_thread(self):
        torch = pytest.importorskip("torch")
        torch.set_num_threads(1)
