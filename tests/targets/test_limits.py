"""A target's limits: what cannot be held to is said, and each number is read where it belongs."""

import math
from dataclasses import replace

import numpy as np
import pytest

from mlflow_compress.config.compress import Config
from mlflow_compress.errors import ConfigError
from mlflow_compress.jobs.prepare import make_evaluator, make_plan
from mlflow_compress.measure import Dataset
from mlflow_compress.mlflow_plugin import ResolvedSource
from mlflow_compress.records import (
    Accuracy,
    DatasetRef,
    Fidelity,
    Interval,
    Latency,
    OutputFidelity,
    Recipe,
    Report,
    Trial,
    Variant,
)
from mlflow_compress.registry import check
from mlflow_compress.search import Reward, Screen, violations
from mlflow_compress.targets import (
    ALWAYS,
    AccuracyLimits,
    Execution,
    Limits,
    Look,
    Target,
    is_out_of_reach,
    judge,
    limits_of,
    load_target,
)
from mlflow_compress.targets import Reward as RewardOf
from mlflow_compress.targets.limits import interval_level
from tests.judged import fidelity as fidelity_of
from tests.tiny import labelled_rows, tiny_model

ROWS = DatasetRef("rows", "a" * 64, 1000)
RMSE = Accuracy("rmse", 4.0, 3.5, 0.5, Interval(0.4, 0.6), ROWS, higher_is_better=False)
RIGHT = Accuracy("accuracy", 0.95, 0.96, 0.01, Interval(0.0, 0.015), ROWS)
HERE = Latency("local", 1, 1, 20.0, 22.0, 18.0, 1.1, Interval(1.0, 1.2))
PI = Latency("ssh://pi", 1, 1, 5.0, 6.0, 4.0, 1.2, Interval(1.1, 1.3))


def variant(accuracy=RIGHT, latency=()):
    return Variant("k", Recipe(), Report(10, 40, 4.0, 2.0, "f" * 64, accuracy=accuracy,
                                         latency=latency))  # fmt: skip


def verdicts(given, target):
    """Return what promotion, search and screening say of one limit: all three must agree."""
    failed = {gate.name: gate.reason for gate in check(given, target) if not gate.passed}
    broken = violations(given, [target])
    screen = Screen([target], ["rate", "accuracy"])
    screen.learn(Trial(0, "k", given.recipe, "complete", variant=given))
    return failed, {name for name, excess in broken.items() if excess > 0}, screen.is_on


def test_an_error_is_not_bounded_from_below():
    failed, broken, is_served = verdicts(
        variant(RMSE), Target("pi", accuracy=AccuracyLimits(min=0.5))
    )
    reason = "rmse is an error, where less is better: limit max or max_drop instead"
    assert (failed, broken, is_served) == ({"accuracy": reason}, {"accuracy"}, False)


@pytest.mark.parametrize(
    ("most", "failed"), [(4.0, {}), (3.9, {"metric_error": "4 is more than 3.9"})]
)
def test_an_error_is_bounded_from_above_in_its_own_unit(most, failed):
    given = verdicts(variant(RMSE), Target("pi", accuracy=AccuracyLimits(max=most)))
    assert given == (failed, set(failed), not failed)


@pytest.mark.parametrize("most", [4.0, 3.9])
def test_an_error_is_bounded_where_outputs_are_judged_too(most):
    """Values have an ``error`` of their own, which is another number."""
    measures = {"error": 0.002, "snr": 27.0, "r2": 0.998}
    values = OutputFidelity("y", "values", measures, {"error": Interval(0.001, 0.003)})
    report = replace(variant(RMSE).report, fidelity=Fidelity(None, None, ROWS, (values,), 0.998))
    given = replace(variant(), report=report)
    limits = AccuracyLimits(max=most, max_error=0.01, confidence=0.95)
    failed, broken, is_served = verdicts(given, Target("pi", accuracy=limits))
    expected = {} if most == 4.0 else {"metric_error": "4 is more than 3.9"}
    assert (failed, broken, is_served) == (expected, set(expected), not expected)


def test_an_accuracy_is_not_bounded_from_above():
    failed, broken, is_served = verdicts(variant(), Target("pi", accuracy=AccuracyLimits(max=0.5)))
    reason = "accuracy is no error, more of it is better: limit min or max_drop instead"
    assert (failed, broken, is_served) == ({"metric_error": reason}, {"metric_error"}, False)


@pytest.mark.parametrize(
    ("accuracy", "limits", "reason"),
    [
        (RIGHT, {"min": 0.94}, ""),
        (RIGHT, {"min": 0.945}, "0.943 (95 % sure) is less than 0.945"),
        (RIGHT, {"min": 0.945, "confidence": None}, ""),
        (RIGHT, {"min": 0.94, "confidence": 0.99},
         "the interval of accuracy is at level 0.95, 0.99 is asked"),
        (RMSE, {"max": 4.3}, ""),
        (RMSE, {"max": 4.1}, "4.2 (95 % sure) is more than 4.1"),
    ],
)  # fmt: skip
def test_the_metric_itself_is_bounded_by_the_worse_end_of_its_interval(accuracy, limits, reason):
    """A hundred rows more would else decide whether a model passes."""
    near = Interval(0.943, 0.957) if accuracy is RIGHT else Interval(3.8, 4.2)
    limits = {"confidence": 0.95, **limits}
    target = Target("pi", accuracy=AccuracyLimits(**limits))
    failed, broken, is_served = verdicts(variant(replace(accuracy, interval=near)), target)
    assert list(failed.values()) == ([reason] if reason else [])
    assert (broken, is_served) == (set(failed), not reason)


def test_a_metric_that_was_stored_without_an_interval_is_read_as_it_is():
    target = Target("pi", accuracy=AccuracyLimits(min=0.95, confidence=0.95))
    assert verdicts(variant(RIGHT), target) == ({}, set(), True)


SISDR = Accuracy("si_sdr", 11.0, 12.0, 1.0, Interval(0.8, 1.2), ROWS, unit="dB")


@pytest.mark.parametrize(
    ("accuracy", "limits", "reason"),
    [
        (SISDR, {"min": 10.5}, None),
        (SISDR, {"min": 11.5}, "11 is less than 11.5"),
        (SISDR, {"max_drop": 1.5}, None),
        (SISDR, {"max_drop": 1.1}, "1.2 dB (95 % sure) is more than 1.1 dB"),
        (RIGHT, {"max_drop": 2}, "accuracy is a share: must be between 0 and 1, got 2 (did you "
                                 "mean 0.02?)"),
        (RIGHT, {"min": 95}, "accuracy is a share: must be between 0 and 1, got 95 (did you mean "
                             "0.95?)"),
    ],
)  # fmt: skip
def test_a_bound_is_in_the_metric_s_unit(accuracy, limits, reason):
    """A share's bound of 2 is no bound, so that it must never pass."""
    accuracy_limits = AccuracyLimits(**limits, confidence=0.95)
    failed, broken, is_served = verdicts(variant(accuracy), Target("pi", accuracy=accuracy_limits))
    assert list(failed.values()) == ([] if reason is None else [reason])
    assert (broken, is_served) == (set(failed), reason is None)


@pytest.mark.parametrize(
    ("limits", "unit", "texts"),
    [
        ({"max_drop": 0.005}, "share", ["at most 0.5 points lost"]),
        ({"max_drop": 1.5, "min": 12}, "dB", ["accuracy 12 dB or more", "at most 1.5 dB lost"]),
        ({"max": 3.5}, "", ["an error of at most 3.5"]),
        ({"limits": {"y{0}": {"agreement": 0.9}}}, "share", ["agreement of y{0} at least 90.00 %"]),
    ],
)
def test_a_limit_is_told_in_the_metric_s_unit(limits, unit, texts):
    target = Target("pi", accuracy=AccuracyLimits(**limits))
    report = replace(variant().report, fidelity=fidelity_of(1.0, 0.0, ROWS))
    told = [limit.text(unit) for limit in judge(target, report) if limit.key not in ALWAYS]
    assert set(texts) <= set(told), told


def test_the_schema_takes_the_largest_error_as_a_bound():
    assert load_target({"name": "pi", "accuracy": {"max": 12.5}}).accuracy.max == 12.5
    with pytest.raises(ConfigError, match="max must be greater than or equal to 0, got -1"):
        load_target({"name": "pi", "accuracy": {"max": -1}})


LABELLED = Dataset({"x": np.zeros((4, 2), np.float32)}, np.zeros(4))


def plan(target, rows=LABELLED, **data):
    config = {"source": "m", "data": {"evaluation": "rows.npz", **data}, "targets": [target]}
    return make_plan(Config.model_validate(config), {"evaluation": rows})


@pytest.mark.parametrize(
    ("key", "metric", "message"),
    [
        ("min", "rmse", "target 'pi': accuracy.min: rmse is an error, where less is better"),
        ("max", "accuracy", "target 'pi': accuracy.max: accuracy is no error, more of it is"),
    ],
)
def test_a_bound_that_makes_no_sense_is_refused_before_anything_runs(key, metric, message):
    with pytest.raises(ConfigError, match=message):
        plan({"name": "pi", "accuracy": {key: 0.5}}, metric=metric)
    other = {"min": "accuracy", "max": "rmse"}[key]
    assert plan({"name": "pi", "accuracy": {key: 0.5}}, metric=other).targets


@pytest.mark.parametrize("key", ["min", "max_drop"])
def test_a_percentage_of_a_share_is_refused_before_anything_runs(key):
    message = f"accuracy.{key}: accuracy is a share: must be between 0 and 1, got 2"
    with pytest.raises(ConfigError, match=message):
        plan({"name": "pi", "accuracy": {key: 2}})
    assert plan({"name": "pi", "accuracy": {key: 2}}, metric="si_sdr").targets


def test_a_reward_needs_a_latency_that_somebody_measures():
    gpu = {"name": "pi", "objective": "reward", "reward": {"latency": "5ms"},
           "execution": {"providers": ["CUDAExecutionProvider"]}}  # fmt: skip
    with pytest.raises(ConfigError, match="measures none with CUDAExecutionProvider"):
        plan(gpu)


def test_a_latency_counts_on_its_own_device():
    limits = Limits(latency_p50_ms=10.0)
    given = variant(latency=(PI, HERE))
    assert verdicts(given, Target("pi", limits)) == (
        {"latency_p50": "20 ms is more than 10 ms"}, {"latency_p50"}, False
    )  # fmt: skip
    assert verdicts(given, Target("pi", limits, measured_on="ssh://pi")) == ({}, set(), True)


def test_a_reward_counts_the_slowest_of_its_own_device():
    target = Target("pi", objective="reward", reward=RewardOf(5.0))
    named_here = Latency("kiosk", 1, 1, 30.0, 32.0, 18.0, 1.6, Interval(1.5, 1.7))
    found = Reward(target).latency(variant(latency=(PI, HERE, named_here)))
    assert found == named_here


def test_a_provider_that_nobody_measures_is_not_met():
    target = Target(
        "pi",
        Limits(latency_p50_ms=100.0),
        execution=Execution(providers=("CUDAExecutionProvider",)),
    )
    failed, broken, is_served = verdicts(variant(latency=(HERE,)), target)
    assert set(failed) == {"latency_p50"}
    assert not broken, "it is the same for all variants"
    assert not is_served


def test_intervals_are_at_the_highest_level_that_a_target_asks_for():
    asks = [Target("a", accuracy=AccuracyLimits(max_drop=0.1, confidence=c)) for c in (0.9, 0.99)]
    assert interval_level([]) == interval_level(asks[:1]) == 0.95
    assert interval_level(asks) == 0.99


def test_a_job_measures_drops_at_the_level_that_is_asked_for(tmp_path):
    model = tiny_model()
    x, labels = labelled_rows(model)
    made = {}
    for level in (0.9, 0.99):
        bounds = {"max_drop": 0.2, "confidence": level}
        asked = plan({"name": "pi", "accuracy": bounds}, Dataset({"x": x}, labels))
        source = ResolvedSource("models:/tiny/1", "tiny", "onnx", given=model)
        evaluator = make_evaluator(asked, source, tmp_path)
        variant = evaluator.make(Recipe(), evaluator.key(Recipe())).variant
        made[level] = variant.key, variant.report.accuracy.drop_interval.level
        assert not [g.name for g in check(variant, asked.targets[0]) if not g.passed]
    assert made[0.9][1] == 0.95
    assert made[0.99][1] == 0.99
    assert made[0.9][0] != made[0.99][0], "a trial at another level is another trial"


def test_without_an_interval_nothing_is_out_of_reach():
    target = Target("pi", accuracy=AccuracyLimits(max_kl=0.1))
    seen = fidelity_of(1.0, 0.3, ROWS)
    bare = replace(seen, outputs=(replace(seen.outputs[0], intervals={}),))
    assert is_out_of_reach(target, Look(None, seen, 0.999))
    assert not is_out_of_reach(target, Look(None, bare, 0.999))


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_what_is_no_number_is_within_no_limit(value):
    target = Target("pi", Limits(1, 1.0, 1.0, 1), AccuracyLimits(None, 1.0, None, None, 1.0, 1.0))
    assert not any(limit.passes(value) for limit in limits_of(target))
