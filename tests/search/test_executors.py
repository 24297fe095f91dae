"""Trials on processes, dask and ray: the same outcome as in this process, whatever dies."""

import signal
import subprocess
import sys
import threading
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest

from mlflow_compress import measure
from mlflow_compress.errors import ConfigError, UnreachableError
from mlflow_compress.search import (
    NullObserver,
    SearchInfo,
    SearchOptions,
    Space,
    StepCache,
    TrialEvaluator,
    executor_names,
    get_executor,
    get_strategy,
    run_search,
)
from mlflow_compress.search.executors import Options, worker_died
from mlflow_compress.techniques import normalize
from tests.search.made_up import SPACE
from tests.search.workers import Deadly, Quick, Untimed
from tests.tiny import CLASSES, tiny_model

INFO = SearchInfo("t", "models:/t/1", "0" * 64, 4352, "grid")
RECIPES = [
    [{"prune": {"sparsity": {"choices": [0.3, 0.5, 0.7]}}}, {"share": {"clusters": 8}}],
    [{"share": {"clusters": 16}}],
    [{"prune": {"sparsity": 0.99, "exclude": ["gone"]}}],
]
VICTIM = "prune 0.5 · share 8"


@pytest.fixture(autouse=True)
def importable(monkeypatch):
    """Workers import the tests' evaluators, as they would a user's."""
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))


@pytest.fixture
def evaluator(tmp_path):
    rng = np.random.default_rng(3)
    rows = measure.Dataset({"x": rng.normal(size=(64, 16)).astype(np.float32)})
    for name in ("work", "marks"):
        (tmp_path / name).mkdir()
    return Deadly(
        source=normalize(tiny_model()),
        uri="models:/t/1",
        source_digest="0" * 64,
        source_bytes=5120,
        evaluation=rows,
        outputs=CLASSES,
        work_dir=tmp_path / "work",
        latency_rounds=0,
        cache=StepCache(tmp_path / "steps", 10**8),
        marks=tmp_path / "marks",
    )


def search(evaluator, executor="inline", *, spec=RECIPES, strategy="grid", trials=9, **options):
    given = {k: options.pop(k) for k in ("workers", "address", "wait") if k in options}
    timed = getattr(evaluator, "latency_rounds", 0) > 0
    return run_search(
        Space.parse(spec),
        get_strategy(strategy),
        evaluator,
        NullObserver(),
        INFO,
        SearchOptions(
            trials=trials,
            objectives=("rate", "agreement")
            if hasattr(evaluator, "source")
            else ("rate", "accuracy"),
            executor=get_executor(executor, Options(device=timed, **given)),
            **options,
        ),
    )


def essence(trials):
    """What must not depend on where a trial ran."""
    return [(t.number, t.key, t.state, t.error, t.variant) for t in trials]


@pytest.mark.parametrize("executor", ["process", "dask", "ray"])
def test_the_outcome_is_that_of_this_process_though_a_worker_is_killed(evaluator, executor):
    wanted = search(evaluator)
    assert [t.state for t in wanted] == ["complete"] * 4 + ["failed"]
    trials = search(replace(evaluator, victim=VICTIM), executor, workers=2)
    assert len(list(evaluator.marks.iterdir())) == 1
    assert essence(trials) == essence(wanted)
    for trial in trials[:4]:
        assert Path(trial.path).stat().st_size == trial.variant.report.size_bytes


def test_a_trial_that_kills_two_workers_fails_alone(evaluator):
    trials = search(replace(evaluator, victim=VICTIM, times=2), "process", workers=2)
    assert [t.state for t in trials] == ["complete", "failed", "complete", "complete", "failed"]
    assert trials[1].error.startswith("its worker died twice")


@pytest.mark.parametrize("strategy", ["tpe", "evolution"])
def test_the_number_of_workers_does_not_change_the_search(tmp_path, strategy):
    def keys(executor, workers):
        trials = search(
            Quick(tmp_path), executor, workers=workers, spec=SPACE, strategy=strategy, trials=24
        )
        return [(t.number, t.key) for t in trials]

    one = keys("inline", 1)
    assert keys("process", 2) == one
    assert keys("process", 4) == one


def test_free_order_tries_as_many_and_numbers_them(tmp_path):
    trials = search(
        Quick(tmp_path), "process", workers=2, spec=SPACE, strategy="tpe", trials=16,
        in_order=False,
    )  # fmt: skip
    assert [t.number for t in trials] == list(range(16))
    assert len({t.key for t in trials}) == 16


@pytest.mark.parametrize("executor", ["process", "dask"])
def test_latency_is_measured_where_trials_run(evaluator, executor):
    trials = search(replace(evaluator, latency_rounds=2), executor, workers=2)
    assert [len(t.variant.report.latency) for t in trials[:4]] == [1] * 4
    assert all(t.variant.report.latency[0].p50 > 0 for t in trials[:4])


def untimed(evaluator):
    given = {f.name: getattr(evaluator, f.name) for f in fields(TrialEvaluator)}
    return Untimed(**given | {"latency_rounds": 2}, marks=evaluator.marks)


@pytest.mark.parametrize("executor", ["inline", "process"])
def test_a_latency_that_cannot_be_measured_fails_its_trial_alone(evaluator, executor):
    trials = search(untimed(evaluator), executor, workers=2)
    assert [t.state for t in trials] == ["failed"] * 3 + ["complete", "failed"]
    assert trials[0].error == "its latency: MemoryError: no room"
    assert trials[0].variant is None


@pytest.mark.parametrize("in_order", [True, False])
def test_latency_is_measured_when_nothing_else_runs(evaluator, in_order):
    spec = [[{"share": {"clusters": {"choices": [2, 3, 4, 5, 6, 7, 8]}}}]]
    trials = search(untimed(evaluator), "process", workers=2, spec=spec, in_order=in_order)
    assert {t.state for t in trials} == {"complete"}
    spans = [path.name.split() for path in evaluator.marks.iterdir()]
    timings = [(float(a), float(b)) for what, a, b in spans if what == "time"]
    others = [(float(a), float(b)) for what, a, b in spans if what == "make"]
    assert len(timings) == len(others) == 7
    assert not [1 for a, b in timings for c, d in others if a < d and c < b]


def test_a_scheduler_that_goes_away_ends_the_search_in_one_line(tmp_path):
    from distributed import LocalCluster

    cluster = LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address=None)
    closing = threading.Timer(3, cluster.close)
    closing.start()
    with pytest.raises(UnreachableError, match="dask"):
        search(
            Quick(tmp_path, pause=0.5), "dask", address=cluster.scheduler_address, spec=SPACE,
            strategy="random", trials=60, wait=5,
        )  # fmt: skip
    closing.join()


def test_workers_leave_no_folders_behind(evaluator, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "work"))
    search(evaluator, "process", workers=2)
    assert not [p for p in tmp_path.iterdir() if p.name.startswith("worker-")]
    assert {p.parent for p in evaluator.work_dir.glob("worker-*")} == {evaluator.work_dir}


KILLED_AT_WORK = """
import os, signal, time
from mlflow_compress.search.executors import Options, get_executor
executor = get_executor("process", Options(workers=2))
executor.open()
executor.submit(os.getpid).result()
executor.submit(time.sleep, 600)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_processes_end_with_a_job_that_is_killed():
    # They hold its output, which whoever reads it would else wait for.
    done = subprocess.run(
        [sys.executable, "-c", KILLED_AT_WORK], capture_output=True, check=False, timeout=50
    )
    assert done.returncode == -signal.SIGKILL


def test_a_dask_cluster_is_found_by_its_address(evaluator):
    from distributed import LocalCluster

    with LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address=None) as cluster:
        address = cluster.scheduler_address
        trials = search(evaluator, "dask", address=address)
        assert [t.state for t in trials] == ["complete"] * 4 + ["failed"]
        timed = replace(evaluator, latency_rounds=2)
        with pytest.raises(UnreachableError, match="no worker with --resources device=1"):
            search(timed, "dask", address=address, wait=0.5)


def test_a_cluster_that_is_not_there_is_an_error_and_no_hang(evaluator):
    from distributed import LocalCluster

    with pytest.raises(UnreachableError, match=r"no scheduler answers at tcp://127\.0\.0\.1:9"):
        search(evaluator, "dask", address="tcp://127.0.0.1:9", wait=1)
    with (
        LocalCluster(n_workers=0, dashboard_address=None) as cluster,
        pytest.raises(UnreachableError, match="offers no worker after"),
    ):
        search(evaluator, "dask", address=cluster.scheduler_address, wait=0.5)


def test_executors_are_found_by_name():
    assert executor_names() == ["dask", "inline", "process", "ray"]
    with pytest.raises(
        ConfigError, match=r"search.executor 'proces' does not exist \(did you mean 'process'"
    ):
        get_executor("proces", Options())


@pytest.mark.parametrize(
    ("name", "dead"),
    [("TerminatedWorkerError", True), ("KilledWorker", True), ("ValueError", False)],
)
def test_a_dead_worker_is_told_by_the_class_of_the_error(name, dead):
    assert worker_died(type(name, (Exception,), {})()) is dead
