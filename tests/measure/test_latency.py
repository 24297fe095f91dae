from contextlib import contextmanager

import numpy as np
import pytest

from mlflow_compress.measure import Dataset, is_tie, latency, measure_latency
from mlflow_compress.measure.intervals import median_interval, percentile_interval, resampled
from mlflow_compress.records import Interval, Latency


class Clock:
    """A clock that only models move."""

    def __init__(self):
        self.now = 0.0

    def perf_counter(self):
        return self.now


class Model:
    def __init__(self, clock, seconds, log, name):
        self.clock, self.seconds, self.log, self.name = clock, seconds, log, name

    def get_inputs(self):
        return []

    def run(self, names, feed):
        self.log.append((self.name, len(feed["x"])))
        self.clock.now += self.seconds
        return []


@pytest.fixture
def timed(monkeypatch):
    clock, log = Clock(), []
    monkeypatch.setattr(latency, "time", clock)
    return lambda seconds, name: Model(clock, seconds, log, name), log


@pytest.fixture
def data():
    return Dataset({"x": np.arange(6, dtype=np.float32).reshape(6, 1)})


def test_ratio_and_percentiles_are_of_the_calls(timed, data):
    make, _ = timed
    made = measure_latency(
        make(0.001, "v"), make(0.002, "s"), data, rounds=5, device="d", threads=2
    )
    assert made.ratio == pytest.approx(0.5)
    assert made.p50 == pytest.approx(1.0)
    assert made.p95 == pytest.approx(1.0)
    assert made.source_p50 == pytest.approx(2.0)
    assert (made.device, made.threads, made.batch) == ("d", 2, 1)
    assert not is_tie(made)


def test_the_calls_are_kept_on_as_many_cores_as_there_are_threads(timed, data, monkeypatch):
    make, _ = timed
    kept = []

    @contextmanager
    def pinned(threads):
        kept.append(threads)
        yield
        kept.append(0)

    class Watched(Model):
        def run(self, names, feed):
            assert kept == [2]
            return super().run(names, feed)

    clock = make(1, "").clock
    monkeypatch.setattr(latency, "pinned", pinned)
    pair = [Watched(clock, 0.001, [], name) for name in "vs"]
    measure_latency(*pair, data, rounds=2, threads=2)
    assert kept == [2, 0]


class Slowing(Model):
    """Gets slower with every call, as a machine that grows hot."""

    def run(self, names, feed):
        self.seconds *= 1.001
        return super().run(names, feed)


def test_drift_is_told_and_the_ratio_bears_it(timed, data):
    make, log = timed
    steady = measure_latency(make(0.001, "v"), make(0.001, "s"), data, rounds=8)
    assert steady.drift == pytest.approx(0)
    clock = make(1, "").clock
    pair = [Slowing(clock, 0.001, log, name) for name in "vs"]
    hot = measure_latency(*pair, data, rounds=8)
    # Four rounds of 25 calls lie between the halves' medians: 1.001 ** 100 is 1.105.
    assert hot.drift == pytest.approx(0.105, abs=0.005)
    assert hot.ratio == pytest.approx(1, abs=0.03)


@pytest.mark.parametrize(
    ("seconds", "drift"), [([1, 1, 2, 2], 1), ([2, 2, 1, 1], -0.5), ([1, 1, 9], None), ([], None)]
)
def test_drift_compares_the_halves(seconds, drift):
    assert latency.drift_of(np.array(seconds, float)) == drift


def test_rounds_are_interleaved_and_shuffled(timed, data):
    make, log = timed
    measure_latency(make(0.001, "v"), make(0.001, "s"), data, rounds=12, batch=3)
    assert {rows for _, rows in log} == {3}
    names = [name for name, _ in log]
    switches = [name for name, before in zip(names[1:], names, strict=False) if name != before]
    assert len(switches) >= 12
    rounds = [tuple(names[begin : begin + 50 : 25]) for begin in range(6, len(names), 50)]
    assert set(rounds) == {("v", "s"), ("s", "v")}


def test_slow_models_are_called_less_often(timed, data):
    make, log = timed
    measure_latency(make(1.0, "v"), make(1.0, "s"), data, rounds=2)
    assert len(log) == 6 + 2 * 2 * 6


def test_a_batch_larger_than_the_data_repeats_rows(timed, data):
    make, log = timed
    measure_latency(make(0.001, "v"), make(0.001, "s"), data, rounds=1, batch=8)
    assert {rows for _, rows in log} == {8}


@pytest.mark.parametrize(("low", "high", "tie"), [(0.9, 1.1, True), (0.8, 0.9, False)])
def test_a_tie_is_an_interval_that_holds_one(low, high, tie):
    assert is_tie(Latency("d", 1, 1, 1, 1, 1, 0.9, Interval(low, high))) is tie


@pytest.mark.parametrize("rounds", [1, 2, 15])
def test_the_interval_of_a_median_is_that_of_the_bootstrap(rounds):
    values = np.random.default_rng(rounds).random(rounds)
    medians = [np.median(values[rows]) for rows in resampled(rounds, 2000, seed=7)]
    assert median_interval(values, seed=7) == percentile_interval(np.array(medians))
