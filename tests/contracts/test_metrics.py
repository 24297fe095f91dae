"""The metrics that come with the package keep the contract that a stranger's keeps."""

from importlib.metadata import entry_points

import numpy as np
import pytest

from mlflow_compress.testing import MetricContract

ROWS = 24


class Core(MetricContract):
    @pytest.fixture
    def rng(self):
        return np.random.default_rng(7)

    @pytest.fixture
    def labels(self, wanted):
        return {"labels": wanted}


class Classes(Core):
    @pytest.fixture
    def wanted(self, rng):
        return rng.integers(0, 4, ROWS)

    @pytest.fixture
    def outputs(self, rng, wanted):
        return {"logits": (rng.normal(size=(ROWS, 4)) + 3 * np.eye(4)[wanted]).astype(np.float32)}


class Values(Core):
    @pytest.fixture
    def wanted(self, rng):
        return rng.normal(size=(ROWS, 5))

    @pytest.fixture
    def outputs(self, rng, wanted):
        return {"y": (wanted + 0.2 * rng.normal(size=wanted.shape)).astype(np.float32)}


class OneValue(Values):
    @pytest.fixture
    def wanted(self, rng):
        return rng.normal(size=ROWS)


class Maps(Core):
    @pytest.fixture
    def wanted(self, rng):
        return rng.integers(0, 3, (ROWS, 4, 4))

    @pytest.fixture
    def outputs(self, rng, wanted):
        scores = rng.normal(size=(ROWS, 3, 4, 4)) + 2 * np.moveaxis(np.eye(3)[wanted], -1, 1)
        return {"map": scores.astype(np.float32)}


class TestAccuracy(Classes):
    name = "accuracy"


class TestTop1(Classes):
    name = "top-1"


class TestTop2(Classes):
    name = "top-2"


class TestF1(Classes):
    name = "f1"


class TestBalancedAccuracy(Classes):
    name = "balanced_accuracy"


class TestRocAuc(Classes):
    name = "roc_auc"


class TestAveragePrecision(Classes):
    name = "average_precision"


class TestMae(Values):
    name = "mae"


class TestRmse(Values):
    name = "rmse"


class TestR2(Values):
    name = "r2"


class TestPearson(Values):
    name = "pearson"


class TestSpearman(Values):
    name = "spearman"


class TestCosine(Values):
    name = "cosine"


class TestNearestNeighbour(Values):
    name = "nearest_neighbour"


class TestSiSdr(Values):
    name = "si_sdr"


class TestMlflow(OneValue):
    name = "mlflow:mae"


class TestRecall(Values):
    name = "recall@2"

    @pytest.fixture
    def labels(self):
        return {"labels": np.arange(ROWS) % 6}

    @pytest.fixture
    def outputs(self, rng):
        near = rng.normal(size=(6, 5))[np.arange(ROWS) % 6]
        return {"y": near + 0.1 * rng.normal(size=near.shape)}


class TestIou(Maps):
    name = "iou"


class TestDice(Maps):
    name = "dice"


class TestPerplexity(Core):
    name = "perplexity"

    @pytest.fixture
    def wanted(self, rng):
        return rng.integers(0, 9, (ROWS, 6))

    @pytest.fixture
    def outputs(self, rng, wanted):
        return {"logits": rng.normal(size=(ROWS, 6, 9)) + 2 * np.eye(9)[wanted]}


class TestCer(Core):
    name = "cer"

    @pytest.fixture
    def wanted(self, rng):
        return rng.integers(1, 6, (ROWS, 4))

    @pytest.fixture
    def outputs(self, wanted):
        steps = np.stack([wanted, np.zeros_like(wanted)], axis=2).reshape(ROWS, -1)
        return {"ctc": np.eye(6, dtype=np.float32)[steps]}


class TestWer(Core):
    name = "wer"

    @pytest.fixture
    def wanted(self):
        return np.array([f"row {n} of {ROWS}" for n in range(ROWS)])

    @pytest.fixture
    def outputs(self, wanted):
        return {"text": np.array([*wanted[:-1], "nothing"])}


class TestCocoMap(Core):
    name = "coco_map"

    @pytest.fixture
    def labels(self, rng):
        corner = rng.uniform(0, 50, (ROWS, 3, 2))
        boxes = np.concatenate([corner, corner + rng.uniform(8, 30, (ROWS, 3, 2))], axis=2)
        classes = rng.integers(0, 2, (ROWS, 3))
        classes[::3, 2] = -1
        return {"boxes": boxes, "classes": classes}

    @pytest.fixture
    def outputs(self, rng, labels):
        boxes = labels["boxes"] + rng.normal(size=(ROWS, 3, 4))
        rest = np.stack([rng.uniform(0.3, 1, (ROWS, 3)), labels["classes"]], axis=2)
        return {"found": np.concatenate([boxes, rest], axis=2)}


def test_every_metric_of_the_package_keeps_it():
    kept = {
        case.name
        for case in globals().values()
        if isinstance(case, type) and issubclass(case, MetricContract)
    }
    for point in entry_points(group="mlflow_compress.metrics"):
        assert any(name.startswith(point.name) for name in kept), point.name
