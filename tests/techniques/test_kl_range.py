import numpy as np
import pytest

from mlflow_compress.techniques.numeric.kl_range import kl_range


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


@pytest.mark.parametrize(
    "values",
    [np.linspace(0.8, 1, 500), np.repeat([1.0, 2.0], 500), np.repeat([1.0, 2.0], [980, 20])],
    ids=["far from zero", "two values", "two values, one of them rare"],
)
def test_few_values_away_from_zero_are_not_cut_to_the_first_of_them(rng, values):
    assert kl_range(histogram(values), 256) > 1000
    values = values + rng.normal(0, 0.001, len(values))
    assert kl_range(histogram(values), 256) > 1000


def test_with_as_many_levels_as_bins_there_is_one_range(rng):
    assert kl_range(histogram(rng.normal(size=1000), 128), 128) == 64


@pytest.mark.parametrize("levels", [2, 16, 128, 255])
@pytest.mark.parametrize("bins", [255, 256, 301])
@pytest.mark.parametrize("draw", [np.random.Generator.normal, np.random.Generator.laplace])
def test_no_range_loses_less_by_the_definition(rng, draw, bins, levels):
    counts = histogram(np.maximum(draw(rng, size=500), -0.5), bins)
    middle = len(counts) // 2

    def loss(width):
        first, end = middle - width, min(middle + width + 1, len(counts))
        inside = counts[first:end].astype(float)
        cut = inside.copy()
        cut[0] += counts[:first].sum()
        cut[-1] += counts[end:].sum()
        level = np.arange(len(cut)) * levels // len(cut)
        rounded = np.zeros(len(cut))
        for one in range(levels):
            of = (level == one) & (cut > 0)
            rounded[of] = inside[of].mean() if of.any() else 0
        p, q = cut + 1e-4, rounded + 1e-4
        p, q = p / p.sum(), q / p.sum()
        return (p * np.log(p / q)).sum()

    widths = range(levels // 2, middle + 1)
    least = min(loss(width) for width in widths)
    best = next(width for width in widths if loss(width) <= least + 1e-12)
    assert kl_range(counts, levels) == best
