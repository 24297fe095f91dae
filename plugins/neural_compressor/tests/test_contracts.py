"""The plugin keeps the contracts of the core."""

import pytest
from mlflow_compress_neural_compressor import autotune, static, weights

from mlflow_compress.testing import StrategyContract, TechniqueContract


class Weights(TechniqueContract):
    bad = {"bits": 5, "group_size": 4, "damping": 0, "rows": 0}
    refused = (
        ({"algorithm": "awq"}, "neural_compressor.algorithm: 'awq' is not offered: it looks for"),
        ({"algorithm": "AutoRound"}, "brings in transformers"),
    )

    @pytest.fixture
    def technique(self):
        return weights.TECHNIQUE


class TestGptq(Weights):
    pass


class TestGptqOfTwoBits(Weights):
    settings = {"bits": 2, "group_size": 32}


class TestGptqOfEightBits(Weights):
    settings = {"bits": 8, "store": "uint8"}


class TestRtn(Weights):
    settings = {"algorithm": "rtn", "bits": 3, "search_range": True}


class TestStatic(TechniqueContract):
    settings = {"rows": 32}
    bad = {"rows": 0}

    @pytest.fixture
    def technique(self):
        return static.TECHNIQUE


class TestAutotune(StrategyContract):
    name = "autotune"
    space = (
        [
            {"prune": {"sparsity": {"choices": [0.5, 0.7]}}},
            {"neural_compressor": {"bits": {"choices": [8, 4, 2]}, "group_size": 32}},
        ],
        [{"neural_compressor": {"algorithm": "rtn", "bits": {"choices": [4, 8]}}}],
        ["neural_compressor_static"],
    )

    @pytest.fixture
    def strategy(self):
        return autotune.Autotune
