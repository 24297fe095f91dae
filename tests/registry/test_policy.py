from dataclasses import replace

import pytest

from mlflow_compress.records import DatasetRef, Interval, Latency, Memory, Needs
from mlflow_compress.registry import best_for, check, closest, decide, feasible
from mlflow_compress.registry.policy import gap_text
from mlflow_compress.targets import (
    AccuracyLimits,
    Execution,
    Limits,
    Reward,
    Target,
)
from tests.judged import fidelity as fidelity_of

TARGET = Target("pi", Limits(size_bytes=50_000), AccuracyLimits(max_drop=0.01))
NAN = float("nan")


def failed(variant, target, rows=None):
    return {gate.name: gate.reason for gate in check(variant, target, rows) if not gate.passed}


def test_the_smallest_feasible_wins(make_variant):
    variants = [
        make_variant("a", size=40_000, version=1),
        make_variant("b", size=20_000, accuracy=0.945, version=2),
        make_variant("c", size=10_000, accuracy=0.90, version=3),
    ]
    decision = decide(variants, TARGET)
    assert (decision.outcome, decision.version, decision.incumbent) == ("promoted", 2, None)
    assert decision.reason == "version 2 (prune 0.9, 50.0x) is the best of 2 feasible: size 20 kB"
    assert set(decision.gates) == {1, 2, 3}


def test_deciding_again_keeps(make_variant):
    variants = [make_variant("a", version=1), make_variant("b", size=40_000, version=2)]
    first = decide(variants, TARGET)
    again = decide(variants, TARGET, variants[0])
    assert (first.outcome, again.outcome, again.version) == ("promoted", "kept", 1)


def test_the_drop_is_compared_as_a_decimal_number(make_variant):
    # 0.95 - 0.94 is 0.010000000000000009
    assert feasible(make_variant(accuracy=0.94), TARGET)


def test_latency_of_this_processor_is_none_of_another_provider(make_variant):
    cuda = ("CUDAExecutionProvider",)
    limited = replace(TARGET, limits=Limits(latency_p50_ms=5, latency_p95_ms=9))
    variant = make_variant()
    assert feasible(variant, limited)
    here = replace(limited, execution=Execution(providers=cuda), objective="latency")
    said = "was not measured on local with CUDAExecutionProvider"
    assert failed(variant, here) == {
        "latency_p50": f"latency_p50 {said}",
        "latency_p95": f"latency_p95 {said}",
        "objective": f"latency {said}",
    }
    assert decide([variant], here).outcome == "none feasible"
    assert feasible(variant, replace(here, execution=Execution(providers=cuda, cores=4)))


def test_confidence_compares_the_bound_of_the_interval(make_variant):
    sure = replace(TARGET, accuracy=AccuracyLimits(max_drop=0.01, confidence=0.95))
    variant = make_variant(accuracy=0.943)  # drop 0.007, upper bound 0.012
    assert feasible(variant, TARGET)
    assert failed(variant, sure) == {
        "accuracy_drop": "1.2 points (95 % sure) is more than 1 points"
    }


def test_an_interval_of_a_lower_level_is_not_enough(make_variant):
    strict = replace(TARGET, accuracy=AccuracyLimits(max_drop=0.5, confidence=0.99))
    assert failed(make_variant(), strict) == {
        "accuracy_drop": "the interval of accuracy drop is at level 0.95, 0.99 is asked"
    }


@pytest.mark.parametrize(
    ("limits", "wrong"),
    [
        (AccuracyLimits(min=0.9), {"accuracy"}),
        (AccuracyLimits(max_drop=0.01), {"accuracy_drop"}),
        (AccuracyLimits(min=0.9, max_drop=0.01), {"accuracy", "accuracy_drop"}),
    ],
    ids=["absolute only", "relative only", "mixed"],
)
def test_absolute_and_relative_limits_each_count(make_variant, limits, wrong):
    target = replace(TARGET, accuracy=limits)
    assert feasible(make_variant(accuracy=0.945), target)
    assert set(failed(make_variant(accuracy=0.80), target)) == wrong


def test_an_absolute_limit_counts_though_the_drop_is_fine(make_variant):
    target = replace(TARGET, accuracy=AccuracyLimits(min=0.9, max_drop=0.01))
    assert set(failed(make_variant(accuracy=0.80, source_accuracy=0.80), target)) == {"accuracy"}


def test_data_without_labels_fail_an_accuracy_gate_with_a_reason(make_variant):
    variant = make_variant(accuracy=0.95)
    variant = replace(variant, report=replace(variant.report, accuracy=None))
    assert failed(variant, TARGET) == {
        "accuracy_drop": "accuracy was not measured (data without labels?)"
    }


def test_agreement_and_kl_serve_without_labels(make_variant):
    rows = DatasetRef("digits", "ab" * 32, 100)
    target = replace(TARGET, accuracy=AccuracyLimits(min_agreement=0.99, max_kl=0.1))
    variant = make_variant(accuracy=0.95)

    def with_fidelity(agreement, kl):
        fidelity = fidelity_of(agreement, kl, rows)
        return replace(variant, report=replace(variant.report, accuracy=None, fidelity=fidelity))

    assert feasible(with_fidelity(0.995, 0.05), target)
    assert set(failed(with_fidelity(0.98, 0.05), target)) == {"agreement"}
    assert set(failed(with_fidelity(0.995, 0.2), target)) == {"kl"}
    assert set(failed(with_fidelity(NAN, -0.1), target)) == {"agreement", "kl"}


@pytest.mark.parametrize("value", [NAN, float("inf"), -0.1, 1.5])
def test_an_impossible_accuracy_fails(make_variant, value):
    variant = make_variant()
    broken = replace(variant.report.accuracy, value=value)
    variant = replace(variant, report=replace(variant.report, accuracy=broken))
    target = replace(TARGET, accuracy=AccuracyLimits(min=0.1))
    assert "accuracy" in failed(variant, target)


@pytest.mark.parametrize("high", [NAN, float("inf"), 2.0])
def test_an_impossible_bound_fails(make_variant, high):
    variant = make_variant()
    broken = replace(variant.report.accuracy, drop_interval=Interval(0, high))
    variant = replace(variant, report=replace(variant.report, accuracy=broken))
    target = replace(TARGET, accuracy=AccuracyLimits(max_drop=1.0, confidence=0.9))
    assert "accuracy_drop" in failed(variant, target)


@pytest.mark.parametrize("size", [0, -5, NAN])
def test_an_impossible_size_fails(make_variant, size):
    variant = make_variant()
    variant = replace(variant, report=replace(variant.report, size_bytes=size))
    assert {"size", "objective"} <= set(failed(variant, TARGET))


def test_numbers_of_other_rows_are_stale(make_variant):
    assert failed(make_variant(), TARGET, "ef" * 32) == {
        "accuracy_drop": "accuracy drop: measured on other rows (abababababab and not efefefefefef)"
    }


def test_a_profile_that_the_target_cannot_run(make_variant):
    browser = replace(
        TARGET, execution=Execution(runtime="onnxruntime-web", profiles=("portable",))
    )
    assert failed(make_variant(), browser) == {
        "profile": "onnxruntime-web loads portable, the variant is compact"
    }
    assert feasible(make_variant(profile="portable"), browser)


def test_a_quarantined_version_is_out_for_that_target_only(make_variant):
    variants = [
        make_variant("a", version=1, quarantined={"pi"}),
        make_variant("b", size=40_000, version=2),
    ]
    assert decide(variants, TARGET).version == 2
    assert decide(variants, replace(TARGET, name="other")).version == 1


def test_latency_counts_where_and_how_the_target_runs(make_variant):
    target = replace(TARGET, limits=Limits(latency_p50_ms=5), measured_on="ssh://pi@device")
    variant = make_variant()
    assert failed(variant, target) == {
        "latency_p50": "latency_p50 was not measured on ssh://pi@device with 1 thread(s)"
    }
    there = Latency("ssh://pi@device", 1, 1, 4.0, 6.0, 4.0, 1.0, Interval(0.9, 1.1))
    measured = replace(variant, report=replace(variant.report, latency=(there,)))
    assert feasible(measured, target)
    four = replace(target, execution=Execution(threads=4))
    assert set(failed(measured, four)) == {"latency_p50"}


def test_memory_that_was_not_measured_fails(make_variant):
    target = replace(TARGET, limits=Limits(memory_bytes=10**8))
    assert failed(make_variant(), target) == {"memory": "memory was not measured"}
    assert feasible(make_variant(memory_bytes=10**7), target)


def test_a_latency_tie_does_not_decide(make_variant):
    fastest = replace(TARGET, objective="latency")
    quick = make_variant("quick", ratio=(0.80, 1.00), accuracy=0.944, version=1)
    tied = make_variant("tied", ratio=(0.90, 1.10), accuracy=0.948, version=2)
    slow = make_variant("slow", ratio=(1.20, 1.30), accuracy=0.950, version=3)
    assert decide([quick, tied, slow], fastest).version == 2
    kept = decide([quick, tied, slow], fastest, quick)
    assert (kept.outcome, kept.version) == ("kept", 1)


def test_a_clearly_faster_variant_wins(make_variant):
    fastest = replace(TARGET, objective="latency")
    old = make_variant("old", ratio=(0.95, 1.05), version=1)
    new = make_variant("new", ratio=(0.50, 0.60), accuracy=0.945, version=2)
    assert decide([old, new], fastest, old).version == 2


def test_among_equals_the_clearly_faster_wins(make_variant):
    slow = make_variant("slow", ratio=(0.9, 1.1), version=1)
    fast = make_variant("fast", ratio=(0.5, 0.6), version=2)
    assert decide([slow, fast], TARGET).version == 2


def test_a_dominated_variant_is_never_taken(make_variant):
    # By latency all three tie in a chain: fast and dominated, dominated and good.
    fastest = replace(TARGET, objective="latency")
    fast = make_variant("fast", size=15_000, accuracy=0.941, ratio=(0.10, 0.20), version=1)
    dominated = make_variant("dominated", accuracy=0.945, ratio=(0.15, 0.50), version=2)
    good = make_variant("good", size=10_000, accuracy=0.95, ratio=(0.40, 0.60), version=3)
    assert decide([fast, dominated, good], fastest).version == 1


def test_two_records_of_one_version_give_one_answer(make_variant):
    one = make_variant("a", version=1)
    other = make_variant("b", size=10_000, version=1)
    assert decide([one, other], TARGET) == decide([other, one], TARGET)


def test_a_rate_without_end_cannot_be_ranked(make_variant):
    target = replace(TARGET, objective="rate")
    assert failed(make_variant(rate=float("inf")), target) == {"objective": "rate is inf"}


def test_a_change_below_the_threshold_does_not_flip_the_alias(make_variant):
    old = make_variant("old", size=20_000, version=1)
    new = make_variant("new", size=19_900, version=2)
    kept = decide([old, new], TARGET, old)
    assert (kept.outcome, kept.version) == ("kept", 1)
    assert kept.reason == (
        "version 1 (prune 0.9, 50.0x) stays: version 2 is better by 0.5 %, "
        "less than the 1 % that a change needs"
    )
    assert decide([old, new], replace(TARGET, min_improvement=0.0), old).version == 2


@pytest.mark.parametrize(
    ("objective", "less", "more"),
    [
        ("size", {"size": 19_900}, {"size": 19_700}),
        ("rate", {"size": 19_900}, {"size": 19_700}),
        ("accuracy", {"accuracy": 0.959}, {"accuracy": 0.961}),
        ("latency", {"ratio": (0.994, 0.996)}, {"ratio": (0.984, 0.986)}),
        # sqrt(p50) divides: 1.5 % faster is 0.75 % better, 3 % faster is 1.5 %
        ("reward", {"ratio": (0.984, 0.986)}, {"ratio": (0.969, 0.971)}),
    ],
)
def test_each_objective_has_its_threshold(make_variant, objective, less, more):
    reward = Reward(1.0, -0.5) if objective == "reward" else None
    target = replace(TARGET, objective=objective, reward=reward, min_improvement=0.01)
    usual = {"size": 20_000, "accuracy": 0.95, "ratio": (0.999, 1.001)}
    old = make_variant("old", version=1, **usual)
    for change, version in ((less, 1), (more, 2)):
        new = make_variant("new", version=2, **(usual | change))
        assert best_for([old, new], target) == (new, True)
        assert decide([old, new], target, old).version == version


def test_without_a_width_an_interval_is_one(make_variant):
    target = replace(TARGET, objective="latency")
    old = make_variant("old", version=1, size=10_000, ratio=(0.5, 0.5))
    new = make_variant("new", version=2, ratio=(0.4, 0.4))
    assert decide([old, new], target, old).version == 2


def test_an_incumbent_that_fails_today_is_replaced(make_variant):
    old = make_variant("old", size=10_000, accuracy=0.90, version=1)
    new = make_variant("new", size=40_000, version=2)
    decision = decide([old, new], TARGET, old)
    assert (decision.outcome, decision.version) == ("promoted", 2)
    assert decision.reason.endswith("version 1 fails its gates today")


def test_the_incumbents_numbers_of_today_count(make_variant):
    old = make_variant("old", version=1)
    rescored = make_variant("old", accuracy=0.90, version=1)
    new = make_variant("new", size=40_000, version=2)
    assert decide([old, new], TARGET, rescored).version == 2


def test_what_has_no_accuracy_comes_closest_last(make_variant):
    one = make_variant("one", size=60_000, accuracy=NAN)
    other = make_variant("other", size=60_000, accuracy=0.5)
    by_size = replace(TARGET, accuracy=AccuracyLimits())
    assert closest([one, other], by_size) is closest([other, one], by_size) is other


def test_none_feasible_leaves_the_alias_and_names_the_closest(make_variant):
    big = make_variant("big", size=60_000, version=1)
    wrong = make_variant("wrong", size=60_000, accuracy=0.5, version=2)
    decision = decide([big, wrong], TARGET, wrong)
    assert (decision.outcome, decision.version, decision.best_gap) == ("none feasible", 2, 1)
    assert decision.reason == (
        "none of 2 variants passes; version 1 comes closest: size: 60 kB is more than 50 kB"
    )


def test_nothing_registered():
    decision = decide([], TARGET)
    assert (decision.outcome, decision.version) == ("none feasible", None)


def test_an_unregistered_variant_cannot_be_promoted(make_variant):
    assert decide([make_variant()], TARGET).outcome == "none feasible"
    assert best_for([make_variant()], TARGET) == (make_variant(), True)


def test_the_closest_is_the_one_with_least_excess(make_variant):
    near, far = make_variant("a", size=60_000), make_variant("b", size=90_000)
    unknown = replace(near, key="c", report=replace(near.report, accuracy=None, size_bytes=100))
    assert closest([far, unknown, near], TARGET) is near
    assert best_for([far, near], TARGET) == (near, False)
    assert best_for([], TARGET) == (None, False)


def test_a_newer_source_goes_first(make_variant):
    old = make_variant("old", size=10_000, version=1, source="models:/lenet/1")
    new = make_variant("new", size=20_000, version=2, source="models:/lenet/2")
    decision = decide([old, new], TARGET, old)
    assert (decision.outcome, decision.version) == ("promoted", 2)
    assert "newer source models:/lenet/2" in decision.reason


def test_a_newer_source_that_regresses_too_far_does_not(make_variant):
    old = make_variant("old", accuracy=0.95, version=1, source="models:/lenet/1")
    new = make_variant(
        "new", accuracy=0.90, source_accuracy=0.90, version=2, source="models:/lenet/2"
    )
    decision = decide([old, new], TARGET, old)
    assert (decision.outcome, decision.version) == ("kept", 1)
    # The same whoever is the incumbent: a second step must not undo the first.
    assert decide([old, new], TARGET, new).version == 1
    assert decide([old, new], TARGET).version == 1


def test_mnasnet_reward(make_variant):
    target = replace(TARGET, objective="reward", reward=Reward(latency_ms=1.0, weight=-0.5))
    exact = make_variant("exact", accuracy=0.95, ratio=(3.9, 4.1), version=1)  # 0.95 / 2
    quick = make_variant("quick", accuracy=0.942, ratio=(0.95, 1.05), version=2)  # 0.942
    assert decide([exact, quick], target).version == 2


def test_memory_counts_where_the_target_is_measured(make_variant):
    target = replace(TARGET, limits=Limits(memory_bytes=10**7), measured_on="ssh://pi@box")
    there = Memory("ssh://pi@box", 1, 9_000_000)
    assert feasible(make_variant(memory_bytes=10**8, memory=(there,)), target)
    too_much = replace(there, threads=2, bytes=11_000_000)
    assert not feasible(make_variant(memory=(there, too_much)), target)
    elsewhere = make_variant(memory_bytes=10, memory=(replace(there, device="ssh://other"),))
    assert "memory was not measured on ssh://pi@box" in gap_text(elsewhere, target)


def test_what_the_runtime_lacks_fails_with_the_node_named(make_variant):
    limited = Execution(opset=17, dtypes=("float", "int8"), without_operators=("Loop",))
    target = replace(TARGET, execution=limited)
    needs = Needs(17, {"MatMul": "m"}, {"float": "input 'x'"})
    assert feasible(make_variant(needs=needs), target)
    assert "was not recorded" in gap_text(make_variant(), target)
    for change, text in (
        ({"opset": 18}, "takes opset 17, the model is of opset 18"),
        ({"operators": {"Loop": "unpack"}}, "has no operator Loop (node 'unpack')"),
        ({"dtypes": {"uint8": "weight 'w'"}}, "takes float, int8, weight 'w' is uint8"),
    ):
        assert text in gap_text(make_variant(needs=replace(needs, **change)), target)
