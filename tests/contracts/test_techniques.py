"""The core's own techniques keep the contract that a stranger's keeps."""

import pytest

from mlflow_compress.techniques import get
from mlflow_compress.testing import TechniqueContract


class Core(TechniqueContract):
    name = ""

    @pytest.fixture
    def technique(self):
        return get(self.name)


class ByLayer(Core):
    imports = ("onnx", "onnxruntime")  # the search's room, where a value per layer comes from


class TestDynamic(Core):
    name = "dynamic"


class TestFloat16(Core):
    name = "float16"


class TestFold(Core):
    name = "fold"


class TestPrune(Core):
    name = "prune"
    bad = {"sparsity": 90}


class TestPruneByLayer(ByLayer):
    name = "prune_layers"
    settings = {"layers": "f1.*=0.9, *=0.5"}


class TestShare(Core):
    name = "share"
    bad = {"clusters": 1}


class TestShareByLayer(ByLayer):
    name = "share_layers"
    settings = {"layers": "f1.*=8, *=32"}


class TestEntropyShare(Core):
    name = "entropy_share"


class TestQuantize(Core):
    name = "quantize"
    settings = {"rows": 32}
    bad = {"rows": 0, "percentile": 10, "keep_float": -2}


class TestSeparable(Core):
    name = "separable"
    settings = {"max_error": 1.0}
    bad = {"rank": 17, "max_error": 1.5, "rows": 0, "epochs": -1}


class TestShrink(Core):
    name = "shrink"


class TestWeightOnly(Core):
    name = "weight_only"
    bad = {"bits": 1, "group_size": 4, "rows": 0}


class TestWeightOnlyByLayer(ByLayer):
    name = "weight_only_layers"
    settings = {"layers": "f1.*=3, *=8"}


class TestDistill(Core):
    name = "distill"
    settings = {"epochs": 1}

    @pytest.fixture(autouse=True)
    def _torch(self):
        pytest.importorskip("torch")
