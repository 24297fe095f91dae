"""The promises of the policy, on variants, targets and incumbents that hypothesis invents."""

import math
from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from mlflow_compress.records import (
    Accuracy,
    DatasetRef,
    Interval,
    Latency,
    Memory,
    Needs,
    Recipe,
    Report,
    Step,
    Variant,
)
from mlflow_compress.registry import decide, feasible
from mlflow_compress.registry.order import dominates, generation
from mlflow_compress.registry.policy import todays_rows
from mlflow_compress.targets import AccuracyLimits, Execution, Limits, Reward, Target
from tests.judged import fidelity as fidelity_of

DIGESTS = st.sampled_from(["aa" * 32, "bb" * 32])
# Few distinct values, so that ties and near-ties are common; and what must never pass.
ODD = st.sampled_from([math.nan, math.inf, -math.inf, -1.0, 0.0])


def number(*sound):
    return st.sampled_from(sound) | ODD


def sound(*values):
    return st.sampled_from(values)


def maybe(*values):
    return st.sampled_from([None, *values])


@st.composite
def reports(draw, pick=number):
    size = draw(pick(1000, 2000, 4000, 4001))
    value = draw(pick(0.9, 0.94, 0.95, 0.951))
    drop = draw(pick(0.0, 0.005, 0.01, 0.02))
    low = draw(pick(0.5, 0.8, 1.0))
    rows = DatasetRef("rows", draw(DIGESTS), 1000)
    high, level = draw(pick(0.005, 0.015)), draw(pick(0.95, 0.95, 0.99))
    interval = Interval(-0.01, drop + high, level)
    metric = draw(sound("accuracy", "accuracy", "f1", "cer"))
    accuracy = Accuracy(metric, value, 0.95, drop, interval, rows, metric != "cer")
    fidelity = fidelity_of(draw(pick(0.98, 0.99, 1.0)), draw(pick(0.01, 0.1)), rows)
    there = Memory("ssh://pi", 1, draw(pick(10**6, 10**7)))
    latency = Latency(
        draw(sound("local", "ssh://pi")),
        draw(sound(1, 2)),
        1,
        draw(pick(1.0, 2.0)),
        draw(pick(2.0, 4.0)),
        1.0,
        low + 0.1,
        Interval(low, low + draw(sound(0.0, 0.2, 0.4))),
    )
    return Report(
        size_bytes=size,
        source_bytes=100_000,
        rate=draw(pick(25.0, 50.0, 100.0)),
        entropy=1.0,
        sha256="00",
        accuracy=draw(sound(accuracy, accuracy, None)),
        fidelity=draw(sound(fidelity, fidelity, None)),
        latency=draw(sound((latency,), (latency,), ())),
        memory_bytes=draw(maybe(10**6) | pick(10**6, 10**7)),
        memory=draw(sound((there,), ())),
        needs=draw(maybe(Needs(17, {}, {}), Needs(18, {}, {}))),
    )


@st.composite
def fleets(draw, pick=number, least=0):
    found = draw(st.lists(reports(pick), min_size=least, max_size=6))
    return [
        Variant(
            key=f"k{i}",
            recipe=Recipe((Step("prune", {"i": i}),), draw(sound("compact", "portable"))),
            report=report,
            source=f"models:/lenet/{draw(sound(1, 1, 2))}",
            version=i + 1,
            quarantined=frozenset(draw(sound((), (), ("pi",)))),
        )
        for i, report in enumerate(found)
    ]


@st.composite
def targets(draw):
    objective = draw(sound("size", "latency", "accuracy", "rate", "reward"))
    max_drop = draw(maybe(0.0, 0.01, 0.02))
    return Target(
        name="pi",
        limits=Limits(
            draw(maybe(1500, 4000)), draw(maybe(1.5, 3.0)), draw(maybe(3.0)), draw(maybe(5 * 10**6))
        ),
        accuracy=AccuracyLimits(
            draw(maybe(0.92, 0.95)),
            max_drop,
            draw(maybe(0.9, 0.95, 0.99)) if max_drop is not None else None,
            draw(maybe(0.99)),
            draw(maybe(0.05)),
        ),
        objective=objective,
        reward=Reward(1.0) if objective == "reward" else None,
        execution=Execution(
            profiles=draw(sound(("portable",), ("portable", "compact"))), opset=draw(maybe(17))
        ),
        measured_on=draw(sound("local", "local", "ssh://pi")),
        min_improvement=draw(sound(0.0, 0.01, 0.5)),
    )


@st.composite
def situations(draw, pick=number):
    variants = draw(fleets(pick))
    incumbent = draw(st.sampled_from([None, *variants]))
    return variants, draw(targets()), incumbent, draw(maybe("aa" * 32))


def effective(situation):
    """The rows that a decision goes by."""
    variants, target, incumbent, rows = situation
    return rows or todays_rows(variants, target, incumbent)


def by_version(variants, version):
    return next(one for one in variants if one.version == version)


@settings(max_examples=150, deadline=None)
@given(situations())
def test_a_promoted_variant_passes_every_gate(situation):
    variants, target, incumbent, rows = situation
    decision = decide(variants, target, incumbent, rows)
    if decision.outcome == "promoted":
        winner = by_version(variants, decision.version)
        assert feasible(winner, target, effective(situation))
        assert "pi" not in winner.quarantined
        assert winner.recipe.profile in target.execution.profiles
        assert all(gate.passed for gate in decision.gates[decision.version])
    assert set(decision.gates) == {one.version for one in variants}


@settings(max_examples=150, deadline=None)
@given(situations() | situations(sound))
def test_a_dominated_variant_is_never_preferred(situation):
    variants, target, incumbent, rows = situation
    decision = decide(variants, target, incumbent, rows)
    if decision.outcome == "promoted":
        winner = by_version(variants, decision.version)
        for other in variants:
            passes = feasible(other, target, effective(situation))
            if passes and generation(other) == generation(winner):
                assert not dominates(other, winner, target)


@settings(max_examples=100, deadline=None)
@given(situations(), st.randoms(use_true_random=False))
def test_the_order_of_the_input_does_not_matter(situation, random):
    variants, target, incumbent, rows = situation
    shuffled = list(variants)
    random.shuffle(shuffled)
    assert repr(decide(shuffled, target, incumbent, rows)) == repr(
        decide(variants, target, incumbent, rows)
    )


@settings(max_examples=100, deadline=None)
@given(situations())
def test_applying_a_decision_is_a_fixed_point(situation):
    variants, target, incumbent, rows = situation
    decision = decide(variants, target, incumbent, rows)
    if decision.version is None:
        return
    again = decide(variants, target, by_version(variants, decision.version), rows)
    assert again.version == decision.version
    assert again.outcome == ("none feasible" if decision.outcome == "none feasible" else "kept")


@settings(max_examples=100, deadline=None)
@given(situations() | situations(sound), st.sampled_from([0.0, 0.5, 0.9]))
def test_tightening_a_limit_never_lets_a_failing_variant_pass(situation, factor):
    variants, target, incumbent, rows = situation

    def less(limit):
        return None if limit is None else limit * factor

    def more(limit):
        return None if limit is None else limit + (1 - limit) * (1 - factor)

    limits, accuracy = target.limits, target.accuracy
    tighter = replace(
        target,
        limits=Limits(
            less(limits.size_bytes),
            less(limits.latency_p50_ms),
            less(limits.latency_p95_ms),
            less(limits.memory_bytes),
        ),
        accuracy=AccuracyLimits(
            more(accuracy.min),
            less(accuracy.max_drop),
            accuracy.confidence,
            more(accuracy.min_agreement),
            less(accuracy.max_kl),
        ),
    )
    before = decide(variants, target, incumbent, rows).gates
    for version, gates in decide(variants, tighter, incumbent, rows).gates.items():
        was = {gate.name: gate.passed for gate in before[version]}
        assert not [gate.name for gate in gates if gate.passed and not was[gate.name]]


@settings(max_examples=100, deadline=None)
@given(situations(sound))
def test_something_feasible_is_always_found(situation):
    variants, target, incumbent, rows = situation
    decision = decide(variants, target, incumbent, rows)
    any_feasible = any(feasible(one, target, effective(situation)) for one in variants)
    assert (decision.outcome != "none feasible") == any_feasible
