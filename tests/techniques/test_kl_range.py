import numpy as np
import pytest

from mlflow_compress.techniques.kl_range import kl_range


def histogram(values, bins=2048):
    most = float(np.abs(values).max())
    return np.histogram(values, bins, range=(-most, most))[0]


def test_values_without_outliers_keep_their_whole_range(rng):
    assert kl_range(histogram(rng.uniform(-1, 1, 100_000)), 256) > 1000


@pytest.mark.parametrize("far", [4, 7])
def test_a_lone_outlier_does_not_set_the_range(rng, far):
    values = rng.uniform(-1, 1, 100_000)
    values[0] = far
    share = kl_range(histogram(values), 256) / 1024
    assert share == pytest.approx(1 / far, rel=0.15)


def test_with_as_many_levels_as_bins_there_is_one_range(rng):
    assert kl_range(histogram(rng.normal(size=1000), 128), 128) == 64
