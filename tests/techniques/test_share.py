import numpy as np
import pytest

from mlflow_compress.errors import ConfigError
from mlflow_compress.techniques import Context
from mlflow_compress.techniques.numeric.kmeans import cluster, codebook
from mlflow_compress.techniques.prune import PruneSettings
from mlflow_compress.techniques.prune.onnx import prune
from mlflow_compress.techniques.share import ShareSettings
from mlflow_compress.techniques.share.onnx import share, share_array


def brute_force(values: np.ndarray, k: int) -> float:
    """Least squared error over all ways to cut sorted values into k intervals."""
    from itertools import combinations

    values = np.sort(values)
    errors = []
    for cuts in combinations(range(1, len(values)), k - 1):
        parts = np.split(values, cuts)
        errors.append(sum(((part - part.mean()) ** 2).sum() for part in parts))
    return min(errors)


@pytest.mark.parametrize("k", [2, 3, 4])
def test_few_clusters_are_optimal(k):
    for seed in range(5):
        values = np.random.default_rng(seed).normal(size=14)
        error = ((cluster(values, k) - values) ** 2).sum()
        assert error == pytest.approx(brute_force(values, k), rel=1e-9)


@pytest.mark.parametrize("start", ["linear", "density", "quantile"])
def test_auto_is_at_least_as_good_as_each_start(start):
    values = np.random.default_rng(0).standard_t(3, 5000)
    for k in (4, 16, 100):
        auto = ((cluster(values, k) - values) ** 2).sum()
        other = ((cluster(values, k, start) - values) ** 2).sum()
        assert auto <= other * 1.001


def test_centers_are_the_means_of_their_members():
    values = np.random.default_rng(1).normal(size=2000)
    shared = cluster(values, 12)
    for center in np.unique(shared):
        assert values[shared == center].mean() == pytest.approx(center, abs=1e-12)


def test_weights_pull_the_centers():
    values = np.array([0.0, 1.0, 10.0, 11.0])
    heavy = codebook(values, 2, weights=np.array([3.0, 1.0, 1.0, 1.0]))
    np.testing.assert_allclose(heavy, [0.25, 10.5])


def test_every_weight_tensor_holds_at_most_so_many_values(convnet, arrays):
    made = arrays(share(convnet, ShareSettings(clusters=8)).model)
    for name in ("c1.w", "c2.w", "f1.w", "f2.w"):
        assert np.unique(made[name]).size <= 8
    assert np.unique(made["f1.b"]).size == 32


def test_biases_can_be_left_alone(convnet, arrays):
    made = arrays(share(convnet, ShareSettings(clusters=8, biases=False)).model)
    np.testing.assert_array_equal(made["f1.b"], arrays(convnet)["f1.b"])


def test_pruned_zeros_stay_zeros_and_nothing_else_becomes_zero(convnet, arrays):
    pruned = prune(convnet, PruneSettings(sparsity=0.6), Context()).model
    made, before = arrays(share(pruned, ShareSettings(clusters=4)).model), arrays(pruned)
    for name in ("c1.w", "c2.w", "f1.w", "f2.w"):
        np.testing.assert_array_equal(made[name] == 0, before[name] == 0)
        assert np.unique(made[name]).size <= 4


def test_an_array_with_few_values_is_returned_as_it_is():
    array = np.array([[1.0, 2.0], [2.0, 0.0]], np.float32)
    assert share_array(array, 4) is array


def test_an_unknown_excluded_tensor_is_refused(convnet):
    with pytest.raises(ConfigError, match=r"share\.exclude: 'c3\.w'"):
        share(convnet, ShareSettings(exclude=("c3.w",)))


@pytest.mark.parametrize("weighted", [False, True])
def test_no_cluster_stays_empty_on_heavy_tails(weighted):
    rng = np.random.default_rng(1)
    values = rng.standard_t(1.5, 20000)
    weights = np.where(rng.random(20000) < 0.3, 0.0, rng.random(20000)) if weighted else None
    centers = codebook(values, 256, "linear", weights)
    used = np.unique(cluster(values, 256, "linear", weights))
    assert len(centers) == 256
    assert len(used) > 250
    assert np.isfinite(centers).all()
    plain = np.linspace(values.min(), values.max(), 256)
    nearest = plain[np.abs(values[:, None] - plain).argmin(axis=1)]
    mass = np.ones(20000) if weights is None else weights
    error = (mass * (cluster(values, 256, "linear", weights) - values) ** 2).sum()
    assert error < 0.05 * (mass * (nearest - values) ** 2).sum()
