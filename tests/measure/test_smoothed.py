import math

import numpy as np
import pytest

from mlflow_compress.measure.bounds import share_bound
from mlflow_compress.measure.intervals import paired_proportions_interval
from mlflow_compress.measure.pairs import pair_up
from mlflow_compress.measure.smoothed import (
    drop_bound,
    flip_bound,
    flip_interval,
    kl_bound,
    log_scores,
)


def rows_of(rng, rows, classes=10, noise=0.1, shape=()):
    """Logits of a source that is right as often as it says, a variant's, and labels."""
    source = 3 * rng.normal(size=(rows, *shape, classes))
    labels = (source + rng.gumbel(size=source.shape)).argmax(axis=-1)
    return source, source + noise * rng.normal(size=source.shape), labels


def flips(source, variant):
    return (source.argmax(-1) != variant.argmax(-1)).mean()


def drop(source, variant):
    """The expected drop: labels come from the source's own probabilities."""
    shares = np.exp(source) / np.exp(source).sum(-1, keepdims=True)
    new = np.take_along_axis(shares, variant.argmax(-1)[..., None], -1)[..., 0]
    return (shares.max(-1) - new).mean()


def divergence(source, variant):
    p, q = (s - np.log(np.exp(s).sum(-1, keepdims=True)) for s in (source, variant))
    return (np.exp(p) * (p - q)).sum(-1).mean()


@pytest.mark.parametrize("classes", [2, 10])
@pytest.mark.parametrize(("rows", "others"), [(16, 48), (64, 192)])
def test_bounds_hold_and_are_far_below_those_from_counting(classes, rows, others):
    rng = np.random.default_rng(rows)
    true = rows_of(rng, 20_000, classes)
    held, bounds, counted = [], [], []
    for _ in range(30):
        source, variant, labels = rows_of(rng, rows, classes)
        rest, _, rest_labels = rows_of(rng, others, classes)
        bounds.append(flip_bound(source, variant, rest).bound)
        counted.append(share_bound(flips(source, variant) * rows, rows).bound)
        accuracy = drop_bound(source, variant, labels, rest, rest_labels).bound
        kl = kl_bound(source, variant, rest).bound
        limits = flips(*true[:2]), drop(*true[:2]), divergence(*true[:2])
        held.append(np.array([bounds[-1], accuracy, kl]) >= limits)
    assert np.mean(held, axis=0).min() >= 0.86  # 0.95, but for chance
    assert np.median(bounds) < np.median(counted) / 1.25


def test_sixteen_rows_can_confirm_99_percent():
    rng = np.random.default_rng(0)
    source, variant, labels = rows_of(rng, 16, noise=0.005)
    rest, _, rest_labels = rows_of(rng, 48)
    assert flip_bound(source, variant, rest).bound < 0.01
    found = drop_bound(source, variant, labels, rest, rest_labels)
    assert found.bound < 0.005 < paired_proportions_interval(0, 0, 16).high


def test_bounds_grow_with_noise_and_level():
    source, _, labels = rows_of(np.random.default_rng(1), 64)
    away = np.random.default_rng(2).normal(size=source.shape)
    for bound in (
        lambda v, level: flip_bound(source, v, level=level),
        lambda v, level: drop_bound(source, v, labels, level=level),
        lambda v, level: kl_bound(source, v, level=level),
    ):
        by_noise = [bound(source + n * away, 0.9).bound for n in (0.01, 0.05, 0.2, 1.0)]
        assert by_noise == sorted(by_noise)
        by_level = [bound(source + 0.1 * away, level).bound for level in (0.6, 0.8, 0.9, 0.99)]
        assert by_level == sorted(by_level)


def test_what_is_counted_outweighs_what_is_inferred():
    source, variant, _ = rows_of(np.random.default_rng(0), 400, noise=0.0)
    variant = variant + 1e-3
    broken = variant.copy()
    broken[:40] = -broken[:40]  # one row in ten is nothing like the source's
    assert flip_bound(source, broken).bound >= 0.1
    constant = np.zeros_like(source)
    constant[:, 3] = 1
    assert flip_bound(source[:16], constant[:16], source[16:64]).bound > 0.5
    assert drop_bound(source[:64], constant[:64], source[:64].argmax(-1)).bound > 0.5


def test_with_many_rows_the_bound_is_close_to_the_count():
    source, variant, labels = rows_of(np.random.default_rng(3), 20_000)
    assert flip_bound(source, variant).estimate == pytest.approx(flips(source, variant), rel=0.1)
    found = drop_bound(source, variant, labels)
    assert abs(found.estimate - drop(source, variant)) < 0.002
    assert drop(source, variant) < found.bound < 0.006
    assert kl_bound(source, variant).estimate == pytest.approx(divergence(source, variant), rel=0.1)


def test_the_same_scores_pass_and_the_same_but_for_scale_nearly():
    source, _, labels = rows_of(np.random.default_rng(0), 16)
    assert flip_bound(source, source).bound == 0
    assert drop_bound(source, source, labels).bound < 0.001
    assert flip_bound(source, 0.9 * source).bound < 0.01


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_score_that_is_not_finite_never_passes(value):
    source, variant, labels = rows_of(np.random.default_rng(0), 32)
    variant[5, 2] = value
    assert flip_bound(source, variant).bound == 1
    assert drop_bound(source, variant, labels).bound == 1
    assert kl_bound(source, variant).bound == math.inf
    assert flip_interval(source, variant).high == 1


def test_one_row_or_a_source_of_nan_never_passes():
    source, variant, labels = rows_of(np.random.default_rng(0), 32)
    assert flip_bound(source[:1], variant[:1], source[1:]).bound == 1
    assert drop_bound(source[:1], variant[:1], labels[:1]).bound == 1
    assert kl_bound(source[:1], variant[:1]).bound == math.inf
    source[0, 0] = math.nan
    assert flip_bound(source, variant).bound == 1


def test_classes_that_both_rule_out_do_not_count():
    source, variant, _ = rows_of(np.random.default_rng(0), 32, noise=0.01)
    before = flip_bound(source, variant).bound
    ruled_out = np.full((32, 1), -np.inf)
    found = flip_bound(np.hstack([source, ruled_out]), np.hstack([variant, ruled_out]))
    assert found.bound == pytest.approx(before, rel=0.5)


def test_positions_of_one_row_are_no_rows_of_their_own():
    rng = np.random.default_rng(0)
    source, variant, labels = rows_of(rng, 12, noise=0.05, shape=(30,))
    wide = source.reshape(-1, 10), variant.reshape(-1, 10)
    assert flip_bound(source, variant).estimate == pytest.approx(flips(*wide), rel=0.5)
    repeated = np.repeat(source[:, :1], 30, axis=1), np.repeat(variant[:, :1], 30, axis=1)
    single = flip_bound(source[:, 0], variant[:, 0]).bound
    assert flip_bound(*repeated).bound >= 0.7 * single
    assert drop_bound(source, variant, labels).bound < 0.05


def test_one_column_is_two_classes():
    logits = np.random.default_rng(0).normal(size=(64, 1)) * 4
    shares = 1 / (1 + np.exp(-logits))
    by_logit = flip_bound(
        log_scores(logits, is_probability=False), log_scores(logits + 0.05, is_probability=False)
    )
    moved = 1 / (1 + np.exp(-logits - 0.05))
    by_share = flip_bound(
        log_scores(shares, is_probability=True), log_scores(moved, is_probability=True)
    )
    assert by_logit.bound == pytest.approx(by_share.bound, rel=1e-6)
    assert np.isfinite(log_scores(np.array([[0.0, 1.0]]), is_probability=True)).all()


def test_the_printed_interval_ends_at_the_bound_and_never_below_the_count():
    source, variant, _ = rows_of(np.random.default_rng(0), 200, noise=0.4)
    interval = flip_interval(source, variant, level=0.9)
    assert interval.high == flip_bound(source, variant, level=0.95).bound
    assert interval.low <= flips(source, variant) <= interval.high


def test_a_divergence_whose_square_is_no_number_any_more():
    source = np.stack([600 + np.arange(8.0), np.zeros(8)], axis=1)
    bound = kl_bound(source, source - [0, 1])
    assert 0 < bound.estimate <= bound.bound < 1e-200


def test_scores_that_are_all_equal_are_weighed_without_dividing_by_nothing():
    with np.errstate(all="raise"):
        pairs = pair_up(np.zeros((80, 4)), np.zeros((80, 4)), None)
    assert np.isfinite(pairs.losses).all() and pairs.kept == 1
