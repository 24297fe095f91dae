"""The targets that come with the package keep the contract that a stranger's keeps."""

import pytest

from mlflow_compress.targets import shipped_names
from mlflow_compress.testing import TargetContract


@pytest.mark.parametrize("target", shipped_names())
class TestShipped(TargetContract):
    @pytest.fixture
    def loaded(self, target):
        from mlflow_compress.targets import load_target

        return load_target(target)

    def test_the_name_is_the_file_s(self, target, loaded):
        assert loaded.name == target


class TestAStranger(TargetContract):
    """A mapping, as an entry point of another package may lead to."""

    @pytest.fixture
    def target(self):
        return {
            "name": "kiosk",
            "description": "A kiosk",
            "limits": {"size": "1MB", "latency_p50": "5ms", "latency_p95": "9ms"},
            "accuracy": {"max_drop": 0.01},
        }
