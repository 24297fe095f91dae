"""The contract of a metric."""

import math
from collections.abc import Mapping
from typing import ClassVar

import numpy as np
import pytest

from mlflow_compress.measure import Dataset, Metric, find_metric, measure_accuracy
from mlflow_compress.records import Accuracy

__all__ = ["MetricContract"]


class MetricContract:
    """Every metric passes these cases.

    A subclass says which metric, and gives what a good model returns and what is to be returned::

        class TestDistance(MetricContract):
            name = "log_spectral_distance"

            @pytest.fixture
            def outputs(self):
                return {"denoised": DENOISED}  # of [rows, ...], at least 8 rows

            @pytest.fixture
            def labels(self):
                return {"labels": CLEAN}  # or by name: {"boxes": …, "classes": …}

    Attributes:
        name: what the configuration calls it: its installed name, or ``module:function``.
    """

    name: ClassVar[str] = ""

    @pytest.fixture
    def outputs(self) -> Mapping[str, np.ndarray]:
        """What a good model returns, by output; a subclass must give it."""
        raise NotImplementedError("give a fixture `outputs`")

    @pytest.fixture
    def labels(self) -> Mapping[str, np.ndarray]:
        """The labels by name, ``labels`` for those without one; a subclass must give it."""
        raise NotImplementedError("give a fixture `labels`")

    @pytest.fixture
    def inputs(self, outputs: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
        """The inputs by name, for a metric that looks at them."""
        return {"x": np.zeros((len(next(iter(outputs.values()))), 1), np.float32)}

    @pytest.fixture
    def rows(self, inputs: Mapping[str, np.ndarray], labels: Mapping[str, np.ndarray]) -> Dataset:
        """The rows with their labels."""
        named = {name: array for name, array in labels.items() if name != "labels"}
        return Dataset(inputs, labels.get("labels"), "contract", named_labels=named)

    @pytest.fixture
    def metric(self) -> Metric:
        """The metric."""
        return find_metric(self.name)

    def measure(
        self,
        variant: Mapping[str, np.ndarray],
        source: Mapping[str, np.ndarray],
        rows: Dataset,
    ) -> Accuracy:
        """Measure a variant against its source."""
        return measure_accuracy(variant, source, rows, self.name, seed=1)

    def test_it_is_found_by_its_name(self, metric: Metric) -> None:
        """And says in what it counts."""
        assert isinstance(metric, Metric)
        assert metric.unit is None or "\n" not in metric.unit
        assert metric.name

    def test_a_model_scores_as_itself(
        self, outputs: Mapping[str, np.ndarray], rows: Dataset
    ) -> None:
        """Without a drop, with a finite value within the unit's range, inside its interval."""
        found = self.measure(outputs, outputs, rows)
        low, high = found.range
        assert math.isfinite(found.value)
        assert low <= found.value <= high
        assert found.value == found.source
        assert found.drop == 0
        assert found.drop_interval.low <= 0 <= found.drop_interval.high
        assert found.interval is not None
        assert found.interval.low <= found.value <= found.interval.high

    def test_it_names_outputs_that_there_are(
        self, outputs: Mapping[str, np.ndarray], rows: Dataset
    ) -> None:
        """People are told what was read."""
        assert set(self.measure(outputs, outputs, rows).output.split(", ")) <= set(outputs)

    def test_a_ruined_model_scores_worse(
        self, outputs: Mapping[str, np.ndarray], rows: Dataset
    ) -> None:
        """Whichever way the metric goes, the drop of outputs of other rows is positive."""
        order = np.random.default_rng(0).permutation(rows.rows)
        ruined = {name: array[order] for name, array in outputs.items()}
        assert self.measure(ruined, outputs, rows).drop > 0

    def test_the_same_rows_give_the_same_interval(
        self, outputs: Mapping[str, np.ndarray], rows: Dataset
    ) -> None:
        """With the same seed."""
        order = np.arange(rows.rows)[::-1]
        other = {name: array[order] for name, array in outputs.items()}
        assert self.measure(other, outputs, rows) == self.measure(other, outputs, rows)

    def test_nan_where_the_source_has_a_number_never_scores_better(
        self, outputs: Mapping[str, np.ndarray], rows: Dataset
    ) -> None:
        """A row that fails is worth nothing, and never one that happens to be right."""
        if not any(array.dtype.kind == "f" for array in outputs.values()):
            pytest.skip("its outputs have no floats")
        half = np.arange(rows.rows) < rows.rows // 2
        for where in (half, ~half, np.ones_like(half)):
            broken = {name: array.copy() for name, array in outputs.items()}
            for array in broken.values():
                if array.dtype.kind == "f":
                    array[where] = np.nan
            found = self.measure(broken, outputs, rows)
            assert not math.isnan(found.value)
            assert found.drop > 0 if where.all() else found.drop >= 0

    def test_it_changes_nothing_that_it_is_given(
        self, outputs: Mapping[str, np.ndarray], rows: Dataset
    ) -> None:
        """The source's outputs are those of every trial."""
        before = {name: array.copy() for name, array in outputs.items()}
        digest = rows.digest
        self.measure(outputs, outputs, rows)
        for name, array in outputs.items():
            np.testing.assert_array_equal(array, before[name])
        fresh = Dataset(rows.inputs, rows.labels, rows.name, named_labels=rows.named_labels)
        assert fresh.digest == digest
