"""What the unchanged source does as well or better is not promoted over it."""

from dataclasses import replace

import pytest

from mlflow_compress.records import DatasetRef, Interval, Latency, Recipe
from mlflow_compress.registry import best_for, check, decide
from mlflow_compress.targets import AccuracyLimits, Limits, Reward, Target
from tests.judged import fidelity

ROWS = DatasetRef("digits", "ab" * 32, 1000)
SOURCE_BYTES = 1_000_000
FASTEST = Target("pi", accuracy=AccuracyLimits(max_drop=0.05), objective="latency")
BEST = Target("pi", accuracy=AccuracyLimits(max_drop=0.05), objective="accuracy")


def against_source(variant, target):
    """The reason of the gate, None where it is not there; all other gates have passed."""
    gates = check(variant, target)
    assert all(gate.passed for gate in gates if gate.name != "source")
    return next((gate.reason for gate in gates if gate.name == "source"), None)


def unlabelled(variant, agreement=0.995):
    rows = fidelity(agreement, 0.001, ROWS)
    return replace(variant, report=replace(variant.report, accuracy=None, fidelity=rows))


def test_what_is_slower_is_not_promoted_for_speed(make_variant):
    slow = make_variant("slow", ratio=(2.10, 2.18), version=1)
    assert against_source(slow, FASTEST) == (
        "no better than the unchanged source: latency 2.14x the source's, the source's latency "
        "1.00x the source's"
    )
    decision = decide([slow], FASTEST)
    assert (decision.outcome, decision.version) == ("none feasible", None)
    assert "no better than the unchanged source" in decision.reason
    assert best_for([slow], FASTEST) == (slow, False)
    # For its size it is: the objective decides, and nothing else.
    assert against_source(slow, replace(FASTEST, objective="size")) is None


def test_what_is_faster_is(make_variant):
    fast = make_variant(ratio=(0.7, 0.8), accuracy=0.92)
    assert against_source(fast, FASTEST) is None


def test_a_tie_goes_to_the_smaller_file_that_loses_nothing(make_variant):
    tied = make_variant(ratio=(0.9, 1.1))
    assert against_source(tied, FASTEST) is None
    larger = replace(tied.report, size_bytes=SOURCE_BYTES + 1)
    assert against_source(replace(tied, report=larger), FASTEST)
    assert against_source(make_variant(ratio=(0.9, 1.1), accuracy=0.94), FASTEST)


@pytest.mark.parametrize(
    ("objective", "reason"),
    [
        ("size", "size 1.1 MB, the source's size 1 MB"),
        ("rate", "rate 0.9x, the source's rate 1.0x"),
    ],
)
def test_what_is_larger_is_not_promoted_for_its_size(make_variant, objective, reason):
    target = replace(FASTEST, objective=objective)
    larger = make_variant(size=1_100_000, ratio=(0.5, 0.6))
    assert against_source(larger, target) == f"no better than the unchanged source: {reason}"


def test_accuracy_is_compared_with_the_source_s(make_variant):
    assert against_source(make_variant(accuracy=0.94), BEST) == (
        "no better than the unchanged source: accuracy 0.9400, the source's accuracy 0.9500"
    )
    # As good and smaller, or better.
    assert against_source(make_variant(accuracy=0.95), BEST) is None
    assert against_source(make_variant(accuracy=0.96), BEST) is None


def test_an_error_is_compared_with_the_source_s(make_variant):
    def erring(error):
        made = make_variant(accuracy=error, source_accuracy=0.1)
        accuracy = replace(
            made.report.accuracy, metric="cer", higher_is_better=False, drop=error - 0.1
        )
        return replace(made, report=replace(made.report, accuracy=accuracy))

    assert against_source(erring(0.12), BEST)
    assert against_source(erring(0.08), BEST) is None


def test_without_labels_the_source_is_as_close_as_can_be(make_variant):
    target = replace(BEST, accuracy=AccuracyLimits(min_agreement=0.9))
    assert against_source(unlabelled(make_variant()), target) == (
        "no better than the unchanged source: fidelity 0.9950, the source's fidelity 1.0000"
    )
    assert against_source(unlabelled(make_variant(), 1.0), target) is None


def test_a_reward_weighs_speed_against_accuracy(make_variant):
    target = replace(BEST, objective="reward", reward=Reward(1.0, -0.5))
    assert against_source(make_variant(accuracy=0.94, ratio=(0.5, 0.52)), target) is None
    assert against_source(make_variant(accuracy=0.94, ratio=(0.99, 1.0)), target)


@pytest.mark.parametrize(
    "limits",
    [
        Limits(size_bytes=SOURCE_BYTES - 1),
        # The source takes 1 ms.
        Limits(latency_p50_ms=0.99),
        # Nobody has measured what memory the source takes.
        Limits(memory_bytes=10**9),
    ],
    ids=["size", "latency", "memory"],
)
def test_a_source_that_a_target_cannot_take_is_no_candidate(make_variant, limits):
    variant = make_variant(accuracy=0.94, ratio=(0.8, 0.9), memory_bytes=10**6)
    assert against_source(variant, BEST)
    assert against_source(variant, replace(BEST, limits=limits)) is None


def test_a_source_that_is_too_inaccurate_is_no_candidate(make_variant):
    # An interval around the source's own number would be needed to say that it passes by luck.
    bad = make_variant(accuracy=0.91, source_accuracy=0.89, ratio=(2.1, 2.2))
    least = replace(FASTEST, accuracy=AccuracyLimits(min=0.9))
    assert against_source(bad, least) is None


def test_the_source_packed_is_the_source(make_variant):
    packed = replace(make_variant(ratio=(2.10, 2.18), size=SOURCE_BYTES), recipe=Recipe())
    assert against_source(packed, FASTEST) is None
    # So that there is something to fall back to where nothing is better than the source.
    slow = make_variant("slow", ratio=(1.5, 1.6), version=2)
    assert decide([replace(packed, version=1), slow], FASTEST).version == 1


def test_latency_counts_where_the_target_is(make_variant):
    there = Latency("ssh://pi@box", 1, 1, 10.0, 20.0, 20.0, 0.5, Interval(0.49, 0.51))
    here = Latency("local", 1, 1, 2.0, 4.0, 1.0, 2.0, Interval(1.9, 2.1))
    variant = make_variant(latency=(here, there))
    assert against_source(variant, FASTEST)
    assert against_source(variant, replace(FASTEST, measured_on="ssh://pi@box")) is None


def test_it_is_not_asked_of_what_fails_another_gate(make_variant):
    slow = make_variant(ratio=(2.10, 2.18), accuracy=0.5)
    assert [gate.name for gate in check(slow, FASTEST) if not gate.passed] == ["accuracy_drop"]
