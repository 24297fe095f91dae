"""Numbers of different metrics or rows are never compared."""

from dataclasses import replace
from itertools import permutations

import pytest

from mlflow_compress.records import DatasetRef, Interval
from mlflow_compress.registry import best_for, closest, decide
from mlflow_compress.registry.order import best_of, dominates, improvement
from mlflow_compress.registry.policy import todays_rows
from mlflow_compress.targets import AccuracyLimits, Limits, Reward, Target
from tests.judged import fidelity as fidelity_of

ROWS = DatasetRef("digits", "ab" * 32, 1000)
FEW = DatasetRef("easy", "ee" * 32, 10)
# The sources, of 1 MB, are too large: what is ranked here are variants.
BEST = Target(
    "best", Limits(size_bytes=500_000), AccuracyLimits(min_agreement=0.9), objective="accuracy"
)
REWARD = replace(BEST, objective="reward", reward=Reward(1.0))
SMALL = Target("small", Limits(size_bytes=50_000), AccuracyLimits(max_drop=0.01))


@pytest.fixture
def labelled(make_variant):
    """Return a function that makes a variant with an accuracy and an agreement."""

    def make(version, accuracy, *, metric="accuracy", agreement=0.95, **more):
        rows = more.setdefault("rows", ROWS)
        found = make_variant(f"k{version}", accuracy=accuracy, version=version, **more)
        named = replace(found.report.accuracy, metric=metric)
        fidelity = fidelity_of(agreement, 0.01, rows)
        return replace(found, report=replace(found.report, accuracy=named, fidelity=fidelity))

    return make


@pytest.fixture
def unlabelled(labelled):
    """Return a function that makes a variant with an agreement only."""

    def make(version, agreement, **more):
        found = labelled(version, 0.95, agreement=agreement, **more)
        return replace(found, report=replace(found.report, accuracy=None))

    return make


@pytest.mark.parametrize("target", [BEST, REWARD], ids=["accuracy", "reward"])
def test_a_fidelity_is_not_compared_with_an_accuracy(labelled, unlabelled, target):
    one, other = labelled(1, 0.95), unlabelled(2, 0.999)
    for variants in ([one, other], [other, one]):
        kept = decide(variants, target, one)
        assert (kept.outcome, kept.version) == ("kept", 1)
        kept = decide(variants, target, other)
        assert (kept.outcome, kept.version) == ("kept", 2)
        assert kept.reason == (
            "version 2 (prune 0.9, 50.0x) stays: accuracy on rows abababababab of version 1 "
            "cannot be compared with its fidelity on rows abababababab"
        )
        # With nothing to lose, what was measured against labels goes first.
        assert decide(variants, target).version == 1
        assert best_for(variants, target) == (one, True)


def test_a_fidelity_ranks_among_variants_without_labels(unlabelled):
    variants = [unlabelled(1, 0.95), unlabelled(2, 0.99)]
    decision = decide(variants, BEST, variants[0])
    assert (decision.outcome, decision.version) == ("promoted", 2)
    assert "fidelity 0.9900; version 1 has fidelity 0.9500" in decision.reason


@pytest.mark.parametrize("target", [BEST, REWARD], ids=["accuracy", "reward"])
def test_accuracies_of_different_metrics_are_not_compared(labelled, target):
    one, other = labelled(1, 0.95), labelled(2, 0.99, metric="f1")
    assert decide([one, other], target, one).version == 1
    assert decide([one, other], target, other).version == 2
    assert improvement(other, one, target) == improvement(one, other, target) == 0.0


def test_dominance_is_of_one_metric_on_one_set_of_rows(labelled, unlabelled):
    good = labelled(1, 0.97, size=10_000, agreement=0.99)
    for worse in (unlabelled(2, 0.91), labelled(3, 0.91, metric="f1"), labelled(4, 0.91, rows=FEW)):
        assert not dominates(good, worse, BEST)
        assert not dominates(worse, good, BEST)
    assert dominates(good, labelled(5, 0.96), BEST)


def test_a_newer_source_does_not_regress_by_another_metric(labelled):
    target = replace(SMALL, objective="accuracy")
    old = labelled(1, 0.99, source_accuracy=0.99)
    more = {"source_accuracy": 0.95, "source": "models:/lenet/2"}
    assert decide([old, labelled(2, 0.95, metric="f1", **more)], target, old).version == 2
    assert decide([old, labelled(2, 0.95, **more)], target, old).version == 1


def test_equal_sizes_and_misses_are_told_apart_by_labels_first(labelled, unlabelled):
    one, other = labelled(2, 0.91, size=60_000), unlabelled(1, 0.99, size=60_000)
    anything = AccuracyLimits(limits={"y": {"agreement": 0.0}})
    by_size = Target("size", Limits(size_bytes=50_000), anything)
    for variants in permutations([one, other]):
        assert best_of(variants, by_size) is one
        assert closest(variants, by_size) is one


def test_a_few_easy_rows_do_not_beat_the_incumbent(labelled):
    target = replace(SMALL, objective="accuracy")
    old = labelled(1, 0.95)
    easy = labelled(2, 0.99, source_accuracy=0.995, rows=FEW)
    for variants in permutations([old, easy, labelled(3, 0.955)]):
        decision = decide(variants, replace(target, min_improvement=0.001), old)
        assert (decision.outcome, decision.version) == ("promoted", 3)
        failed = {gate.name: gate.reason for gate in decision.gates[2] if not gate.passed}
        assert failed == {
            "accuracy_drop": "accuracy drop: measured on other rows "
            "(eeeeeeeeeeee and not abababababab)",
            "broken": "broken: measured on other rows (eeeeeeeeeeee and not abababababab)",
            "objective": "accuracy: measured on other rows (eeeeeeeeeeee and not abababababab)",
        }
    assert decide([old, easy], target, old).outcome == "kept"


def test_a_tighter_limit_does_not_let_other_rows_count(labelled):
    old, easy = labelled(1, 0.95, size=40_000), labelled(2, 0.95, size=20_000, rows=FEW)
    tight = replace(SMALL, limits=Limits(size_bytes=30_000))
    decision = decide([old, easy], tight, old)
    assert (decision.outcome, decision.version) == ("none feasible", 1)
    failed = [gate for gate in decision.gates[2] if not gate.passed]
    assert [gate.name for gate in failed] == ["accuracy_drop", "broken"]
    assert all("measured on other rows" in gate.reason for gate in failed)


def test_todays_rows_without_an_incumbent_that_may_stay(labelled, unlabelled):
    gone = replace(labelled(1, 0.95), quarantined=frozenset({"small"}))
    none = replace(gone, version=4)
    none = replace(none, report=replace(none.report, accuracy=None, fidelity=None))
    newest, bare = labelled(2, 0.95, rows=FEW), unlabelled(3, 0.95)
    for variants in permutations([gone, newest, bare, none]):
        for incumbent in (None, gone, none):
            assert todays_rows(variants, SMALL, incumbent) == FEW.digest
        # Quarantined for another target is not for this one.
        assert todays_rows(variants, BEST, gone) == ROWS.digest
        assert todays_rows(variants, SMALL, bare) == ROWS.digest
    assert todays_rows([none, bare], SMALL) == ROWS.digest
    assert todays_rows([none], SMALL, none) is None
    assert decide([gone, newest], SMALL, gone).version == 2
    assert decide([labelled(5, 0.95), labelled(6, 0.95, rows=FEW)], SMALL).version == 6


def test_rows_that_are_named_go_before_the_incumbents(labelled):
    old, other = labelled(1, 0.95), labelled(2, 0.95, rows=FEW)
    assert decide([old, other], SMALL, old, FEW.digest).version == 2


def test_of_an_error_less_is_better(labelled):
    def erring(version, error):
        made = labelled(version, 1 - error, source_accuracy=0.99, metric="cer")
        accuracy = replace(made.report.accuracy, value=error, source=0.01, higher_is_better=False)
        return replace(made, report=replace(made.report, accuracy=accuracy))

    bad, good = erring(1, 0.95), erring(2, 0.02)
    for variants in ([bad, good], [good, bad]):
        assert decide(variants, BEST, bad).version == 2
        assert decide(variants, BEST, None).version == 2
    none = replace(good.report, accuracy=replace(good.report.accuracy, value=None))
    assert best_for([replace(bad, report=none), good], BEST) == (good, True)
    assert best_for([replace(bad, report=none)], BEST)[1] is False
    best = replace(good.report.accuracy, drop=-3.0, drop_interval=Interval(-4.0, -2.0))
    far = replace(good, report=replace(good.report, accuracy=best))
    for confidence in (None, 0.95):
        no_worse = replace(BEST, accuracy=AccuracyLimits(max_drop=0.0, confidence=confidence))
        assert decide([far], no_worse, None).version == 2
    least = replace(BEST, accuracy=AccuracyLimits(min=0.9))
    refused = decide([bad, good], least, None)
    assert refused.outcome == "none feasible"
    assert "cer is an error, where less is better: limit max or max_drop" in str(refused.gates[2])
