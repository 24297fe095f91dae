"""Gates, search and screening judge by one list of limits: whatever is drawn, they agree."""

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
    Trial,
    Variant,
)
from mlflow_compress.registry import check
from mlflow_compress.search import Screen, violations
from mlflow_compress.search.goals import keeps_all
from mlflow_compress.search.screen import LEVEL
from mlflow_compress.targets import AccuracyLimits, Execution, Limits, Target, limits_of
from tests.judged import fidelity

ROWS = DatasetRef("rows", "aa" * 32, 10_000)
NO_LIMITS = {"objective", "quarantine"}
"""Gates that are no limits on a number, and that a search knows nothing of."""

# Few distinct values, so that a number is often at its bound; and what must never pass.
ODD = st.sampled_from([math.nan, math.inf, -math.inf, -1.0, 0.0])
SIZES, TIMES = (1, 999, 1000, 1001, 4000), (0.5, 1.0, 1.0000001, 3.0)
SHARES = (0.0, 0.005, 0.1 - 0.095, 0.01, 0.9, 0.95, 0.99, 1.0)
MEMORY, KL = (999_999, 10**6, 10**7), (0.0, 0.01, 0.05, 3.0)


def number(*values):
    return st.sampled_from(values) | ODD


def maybe(*values):
    return st.sampled_from([None, *values])


@st.composite
def latencies(draw):
    device = draw(st.sampled_from(["local", "this-host", "ssh://pi", "cmd:sh"]))
    p50, p95 = draw(number(*TIMES)), draw(number(*TIMES))
    return Latency(device, draw(st.sampled_from([1, 4])), 1, p50, p95, 1.0, 1.0, Interval(0.9, 1.1))


@st.composite
def variants(draw):
    drop, level = draw(number(*SHARES)), draw(st.sampled_from([0.9, 0.95, 0.99]))
    interval = Interval(-1.0, draw(number(*SHARES)), level)
    is_error = draw(st.booleans())
    metric, value = ("rmse" if is_error else "accuracy"), draw(number(*SHARES))
    own = draw(maybe(Interval(draw(number(*SHARES)), draw(number(*SHARES)), level)))
    accuracy = Accuracy(metric, value, 0.95, drop, interval, ROWS, not is_error, interval=own)
    close = fidelity(
        draw(number(*SHARES)),
        draw(number(*KL)),
        ROWS,
        margin=draw(st.sampled_from([0.0, 0.005])),
        level=draw(st.sampled_from([0.9, 0.95, 0.99])),
    )
    memory = st.builds(Memory, st.sampled_from(["ssh://pi", "cmd:sh"]), st.just(1), number(*MEMORY))
    report = Report(
        size_bytes=draw(number(*SIZES)),
        source_bytes=100_000,
        rate=10.0,
        entropy=1.0,
        sha256="00",
        accuracy=draw(maybe(accuracy)),
        fidelity=draw(maybe(close)),
        latency=tuple(draw(st.lists(latencies(), max_size=3))),
        memory_bytes=draw(maybe(*MEMORY)),
        memory=tuple(draw(st.lists(memory, max_size=2))),
        needs=draw(maybe(Needs(17, {}, {}), Needs(18, {}, {}))),
    )
    profile = draw(st.sampled_from(["compact", "portable"]))
    return Variant("key", Recipe((), profile), report, version=1)


@st.composite
def targets(draw):
    return Target(
        "pi",
        Limits(
            draw(maybe(1000, 4000)),
            draw(maybe(1.0, 3.0)),
            draw(maybe(1.0, 3.0)),
            draw(maybe(10**6)),
        ),
        AccuracyLimits(
            draw(maybe(0.0, 0.95)),
            draw(maybe(0.0, 0.005, 0.01)),
            draw(maybe(0.95, 0.99)),
            draw(maybe(0.0, 0.99)),
            draw(maybe(0.0, 0.05)),
            draw(maybe(0.0, 0.01)),
            max=draw(maybe(0.0, 0.95)),
        ),
        execution=Execution(
            threads=draw(st.sampled_from([1, 4])),
            profiles=draw(st.sampled_from([("portable",), ("portable", "compact")])),
            providers=draw(
                st.sampled_from([("CPUExecutionProvider",), ("CUDAExecutionProvider",)])
            ),
            opset=draw(maybe(17)),
        ),
        measured_on=draw(st.sampled_from(["local", "local", "ssh://pi"])),
    )


def limit_gates(variant, target):
    return {gate.name: gate for gate in check(variant, target) if gate.name not in NO_LIMITS}


@settings(max_examples=150, deadline=None)
@given(variants(), targets())
def test_a_search_sees_each_limit_as_promotion_does(variant, target):
    gates, broken = limit_gates(variant, target), violations(variant, [target])
    assert set(broken) <= set(gates)
    for name, gate in gates.items():
        if name in broken:
            assert gate.passed == (broken[name] <= 0), gate
            assert math.isfinite(broken[name])
        else:  # what was not measured is left to promotion, which refuses it
            is_any_profile = name == "profile" and len(target.execution.profiles) == 2
            assert gate.passed == is_any_profile, gate
            assert is_any_profile or gate.value is None


@settings(max_examples=150, deadline=None)
@given(variants(), targets())
def test_no_limit_that_is_set_is_without_a_gate(variant, target):
    fixed = [limit for limit in limits_of(target) if limit.source != "rows"]
    gates = [gate.name for gate in check(variant, target) if gate.name not in NO_LIMITS]
    assert len(gates) == len(set(gates)), "each has a name of its own"
    assert {limit.name for limit in fixed} <= set(gates)


@settings(max_examples=150, deadline=None)
@given(variants(), targets())
def test_a_target_is_served_when_every_gate_passes(variant, target):
    passes = all(gate.passed for gate in limit_gates(variant, target).values())
    assert keeps_all(variant, target) == passes
    screen = Screen([target], ["rate"])
    screen.learn(Trial(0, "key", variant.recipe, "complete", variant=variant))
    assert screen.is_on == passes


def finished(report):
    variant = Variant("key", Recipe((), "portable"), report)
    return Trial(0, "key", variant.recipe, "complete", variant=variant)


SMALLEST = Report(
    size_bytes=1,
    source_bytes=10**9,
    rate=1e9,
    entropy=1.0,
    sha256="00",
    accuracy=Accuracy("accuracy", 1.0, 0.5, -0.5, Interval(-0.5, -0.5, 0.99), ROWS),
    fidelity=fidelity(1.0, 0.0, ROWS),
    latency=tuple(Latency("local", n, 1, 0.01, 0.01, 1.0, 0.01, Interval(0, 1)) for n in (1, 4)),
    memory_bytes=1,
    needs=Needs(17, {}, {}),
)
"""Better than anything can be."""


@st.composite
def looks(draw):
    """What a look at some rows saw of a variant, and the variant as it is on all rows."""
    seen = DatasetRef("rows", "bb" * 32, draw(st.sampled_from([256, 1024])))
    source = draw(st.sampled_from([0.9, 0.95, 1.0]))
    low, width = draw(st.floats(-0.05, 0.3)), draw(st.floats(0, 0.1))
    drop = low + draw(st.sampled_from([0.0, 0.5, 1.0])) * width
    interval = Interval(low, low + width, LEVEL)
    agreement, kl, margin = draw(st.floats(0.5, 1)), draw(st.floats(0, 1)), draw(st.floats(0, 0.1))
    off = margin * draw(st.sampled_from([-1.0, 0.0, 1.0]))
    report = replace(
        SMALLEST,
        size_bytes=draw(st.sampled_from(SIZES)),
        rate=10.0,
        accuracy=Accuracy("accuracy", source - drop, source, drop, Interval(drop, drop), ROWS),
        fidelity=fidelity(min(agreement + off, 1.0), max(kl - off, 0.0), ROWS),
    )
    accuracy = replace(report.accuracy, drop_interval=interval, dataset=seen)
    return accuracy, fidelity(agreement, kl, seen, margin=margin, level=LEVEL), report


NEAR = {
    "min": st.floats(0.6, 1),
    "max_drop": st.floats(0, 0.3),
    "min_agreement": st.floats(0.5, 1),
    "max_kl": st.floats(0, 1),
}


@st.composite
def fleets(draw):
    """Targets with few limits, some of them near to what looks see."""
    few = st.sets(st.sampled_from(sorted(NEAR)), min_size=1, max_size=2)
    return [
        Target(
            f"pi{i}",
            Limits(size_bytes=draw(maybe(1000, 4000))),
            AccuracyLimits(**{name: draw(NEAR[name]) for name in sorted(draw(few))}),
        )
        for i in range(draw(st.integers(1, 2)))
    ]


def served(fleet):
    """Return a screen that is on: every target of the fleet has a variant, and a better one."""
    screen = Screen(fleet, ["rate", "accuracy"])
    screen.learn(finished(SMALLEST))
    assert screen.is_on
    return screen


def passes_limits(report, target, *names):
    gates = check(Variant("key", Recipe((), "portable"), report), target)
    return all(gate.passed for gate in gates if gate.name in names)


@settings(max_examples=150, deadline=None)
@given(looks(), fleets())
def test_what_is_hopeless_fails_a_gate_of_every_target(look, fleet):
    screen = served(fleet)
    accuracy, close, whole = look
    reason = screen.hopeless(whole, accuracy, close, accuracy.source, read_by=())
    names = ("accuracy", "accuracy_drop", "agreement", "kl")
    if any(passes_limits(whole, target, *names) for target in fleet):
        assert reason == ""


@settings(max_examples=150, deadline=None)
@given(looks(), fleets())
def test_a_file_is_too_large_when_every_target_refuses_its_size(look, fleet):
    screen = served(fleet)
    refused = not any(passes_limits(look[2], target, "size") for target in fleet)
    assert bool(screen.too_large(look[2])) == refused
