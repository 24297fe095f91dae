"""Every metric that a gate reads is broken in turn, and no gate lets it pass.

The limits are as loose as they can be, so that nothing but the check of the metric itself stands
between a broken number and a promotion.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import pytest
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
    Variant,
)
from mlflow_compress.registry import check, decide, feasible
from mlflow_compress.targets import AccuracyLimits, Execution, Limits, Reward, Target
from tests.judged import fidelity as fidelity_of

TODAY, OTHER = DatasetRef("rows", "aa" * 32, 1000), DatasetRef("other", "bb" * 32, 1000)
BROKEN = (math.nan, math.inf, -math.inf, -2.0)
"""What none of the metrics can be; a drop goes from -1 to 1."""
PLACES = ("local", "ssh://pi")


@dataclass(frozen=True)
class Case:
    """One metric, the gates that read it, and how to put a value in its place."""

    gates: set[str]
    put: Callable[[Report, object], Report]
    values: tuple[object, ...] = BROKEN
    objective: str = "size"
    labels: bool = True
    target: Callable[[Target], Target] = lambda target: target


def in_accuracy(field):
    return lambda report, value: replace(
        report, accuracy=replace(report.accuracy, **{field: value})
    )


def in_fidelity(field):
    return lambda report, value: replace(
        report, fidelity=replace(report.fidelity, **{field: value})
    )


def in_output(report, **changes):
    (output,) = report.fidelity.outputs
    outputs = (replace(output, **changes),)
    return replace(report, fidelity=replace(report.fidelity, outputs=outputs))


def in_measure(name):
    def put(report, value):
        (output,) = report.fidelity.outputs
        measures = {**output.measures, name: value}
        if value is None:
            del measures[name]
        return in_output(report, measures=measures)

    return put


def in_measures_interval(name, field):
    def put(report, value):
        (output,) = report.fidelity.outputs
        interval = replace(output.intervals[name], **{field: value})
        return in_output(report, intervals={**output.intervals, name: interval})

    return put


def in_interval(field):
    def put(report, value):
        interval = replace(report.accuracy.drop_interval, **{field: value})
        return replace(report, accuracy=replace(report.accuracy, drop_interval=interval))

    return put


def in_latency(field):
    return lambda report, value: replace(
        report, latency=tuple(replace(one, **{field: value}) for one in report.latency)
    )


def in_ratio(field):
    return lambda report, value: replace(
        report,
        latency=tuple(
            replace(one, ratio_interval=replace(one.ratio_interval, **{field: value}))
            for one in report.latency
        ),
    )


def in_memory(report, value):
    there = tuple(replace(one, bytes=value) for one in report.memory)
    return replace(report, memory_bytes=value, memory=there)


def whole(*fields):
    return lambda report, value: replace(report, **dict.fromkeys(fields, value))


def unlimited(target):
    """Only what the objective orders by has to be there, and outputs that were judged."""
    anything = AccuracyLimits(limits={"y": {"agreement": 0.0}})
    return replace(target, limits=Limits(), accuracy=anything)


AND_ZERO = (*BROKEN, 0.0)
AND_NONE = (*BROKEN, None)
NO_NUMBER = (math.nan, math.inf, -math.inf, None)
LEVELS = (math.nan, -math.inf, -2.0, 0.5)
ALL_OF_ACCURACY = {"accuracy", "accuracy_drop"}
SPEED = {"latency_p50", "latency_p95"}
CASES = {
    "size": Case({"size", "objective"}, whole("size_bytes"), (*AND_ZERO, None)),
    "p50": Case({"latency_p50"}, in_latency("p50"), (*AND_ZERO, None)),
    "p95": Case({"latency_p95"}, in_latency("p95"), (*AND_ZERO, None)),
    "no latency": Case(SPEED, whole("latency"), ((),)),
    "latency of other threads": Case(SPEED, in_latency("threads"), (2,)),
    "latency of another device": Case(SPEED, in_latency("device"), ("ssh://other", "cmd:sh")),
    "memory": Case({"memory"}, in_memory, (*AND_ZERO, None)),
    "accuracy": Case({"accuracy"}, in_accuracy("value"), (*AND_NONE, 1.5)),
    "drop": Case({"accuracy_drop"}, in_accuracy("drop"), AND_NONE),
    "bound": Case({"accuracy_drop"}, in_interval("high"), AND_NONE),
    "level": Case({"accuracy_drop"}, in_interval("level"), LEVELS),
    "no accuracy": Case(ALL_OF_ACCURACY, whole("accuracy"), (None,)),
    "stale accuracy": Case(ALL_OF_ACCURACY, in_accuracy("dataset"), (OTHER,)),
    "agreement": Case({"agreement"}, in_measure("agreement"), (*AND_NONE, 1.5)),
    "bound of agreement": Case({"agreement"}, in_measures_interval("agreement", "low"), AND_NONE),
    "level of agreement": Case({"agreement"}, in_measures_interval("agreement", "level"), LEVELS),
    "kl": Case({"kl"}, in_measure("kl"), AND_NONE),
    "bound of kl": Case({"kl"}, in_measures_interval("kl", "high"), NO_NUMBER),
    "level of kl": Case({"kl"}, in_measures_interval("kl", "level"), LEVELS),
    "rows that are not finite": Case(
        {"agreement", "kl"}, lambda report, value: in_output(report, broken=value), (1, 1000)
    ),
    "no fidelity": Case({"agreement", "kl"}, whole("fidelity"), (None,)),
    "outputs that were not judged each": Case(
        ALL_OF_ACCURACY | {"agreement", "kl"}, in_fidelity("outputs"), ((),)
    ),
    "stale fidelity": Case({"agreement", "kl"}, in_fidelity("dataset"), (OTHER,)),
    "needs": Case({"runtime"}, whole("needs"), (None,)),
    "rate to rank by": Case({"objective"}, whole("rate"), AND_NONE, "rate"),
}
RANKED = {
    "accuracy": Case({"objective"}, in_accuracy("value"), AND_NONE, target=unlimited),
    "stale accuracy": Case({"objective"}, in_accuracy("dataset"), (OTHER,), target=unlimited),
    "nothing": Case(
        {"objective", "outputs"}, whole("accuracy", "fidelity"), (None,), target=unlimited
    ),
    "fidelity": Case({"objective"}, in_fidelity("score"), BROKEN, labels=False, target=unlimited),
    "no score": Case(
        {"objective"},
        lambda report, value: in_fidelity("agreement")(in_fidelity("score")(report, value), value),
        (None,),
        labels=False,
        target=unlimited,
    ),
    "stale fidelity": Case(
        {"objective", "agreement"}, in_fidelity("dataset"), (OTHER,), labels=False, target=unlimited
    ),
}
TIMED = {
    "p50": Case({"objective"}, in_latency("p50"), AND_ZERO, target=unlimited),
    "ratio": Case({"objective"}, in_latency("ratio"), AND_ZERO, target=unlimited),
    "low": Case({"objective"}, in_ratio("low"), (*AND_ZERO, 20.0), target=unlimited),
    "high": Case({"objective"}, in_ratio("high"), AND_ZERO, target=unlimited),
    "no latency": Case({"objective"}, whole("latency"), ((),), target=unlimited),
}
CASES |= {
    f"{name} to rank by {objective}": replace(case, objective=objective)
    for cases, objectives in ((RANKED, ("accuracy", "reward")), (TIMED, ("latency", "reward")))
    for name, case in cases.items()
    for objective in objectives
}


@st.composite
def sound_reports(draw, place, labels):
    """Reports with every metric there and possible."""
    size = draw(st.integers(1, 10**6))
    value, drop = draw(st.floats(0, 1)), draw(st.floats(-1, 1))
    interval = Interval(-1.0, draw(st.floats(drop, 1)), draw(st.floats(0.95, 0.999)))
    p50, ratio, width = (draw(st.floats(0.01, 8)) for _ in range(3))
    speed = Interval(ratio, ratio + width)
    peak = draw(st.integers(1, 10**9))
    return Report(
        size_bytes=size,
        source_bytes=10**6,
        rate=10**6 / size,
        entropy=1.0,
        sha256="00",
        accuracy=Accuracy("accuracy", value, 0.95, drop, interval, TODAY) if labels else None,
        fidelity=fidelity_of(draw(st.floats(0, 1)), draw(st.floats(0, 100)), TODAY),
        latency=(Latency(place, 1, 1, p50, 2 * p50, 1.0, ratio, speed),),
        memory_bytes=peak if place == "local" else None,
        memory=() if place == "local" else (Memory(place, 1, peak),),
        needs=Needs(17, {}, {}),
    )


def loosest(place, objective):
    """A target that limits everything, and takes everything that is possible."""
    return Target(
        "pi",
        Limits(10**15, 1e15, 1e15, 10**15),
        AccuracyLimits(0.0, 1.0, 0.95, 0.0, 1e15),
        objective=objective,
        reward=Reward(1.0) if objective == "reward" else None,
        execution=Execution(opset=17),
        measured_on=place,
    )


@pytest.mark.parametrize("name", CASES)
@settings(max_examples=25, deadline=None)
@given(st.data())
def test_a_broken_metric_never_passes_its_gate(name, data):
    case = CASES[name]
    place = data.draw(st.sampled_from(PLACES))
    report = data.draw(sound_reports(place, case.labels))
    target = case.target(loosest(place, case.objective))
    good = Variant("good", Recipe(), report, version=1)
    assert feasible(good, target, TODAY.digest)

    value = data.draw(st.sampled_from(case.values))
    broken = Variant("broken", Recipe(), case.put(report, value), version=2)
    failed = {gate.name: gate for gate in check(broken, target, TODAY.digest) if not gate.passed}
    assert set(failed) == case.gates
    assert all(gate.reason for gate in failed.values())
    for incumbent in (None, good, broken):
        assert decide([good, broken], target, incumbent, TODAY.digest).version == 1
    assert decide([broken], target, None, TODAY.digest).outcome == "none feasible"


@pytest.mark.parametrize("name", [name for name in CASES if name.startswith("stale")])
@pytest.mark.parametrize("current", [True, False], ids=["incumbent", "no incumbent"])
@settings(max_examples=10, deadline=None)
@given(st.data())
def test_stale_numbers_do_not_pass_though_nobody_named_the_rows(name, current, data):
    case = CASES[name]
    report = data.draw(sound_reports("local", case.labels))
    target = case.target(loosest("local", case.objective))
    # The newest version, or the incumbent, says what today's rows are.
    good = Variant("good", Recipe(), report, version=1 if current else 3)
    stale = Variant("stale", Recipe(), case.put(report, OTHER), version=2)
    decision = decide([good, stale], target, good if current else None)
    assert decision.version == good.version
    assert {gate.name for gate in decision.gates[2] if not gate.passed} == case.gates
