"""Jobs as processes: what they see, what comes of them, and how they end."""

import json
import os
import sys
import time
from pathlib import Path

import pytest

from mlflow_compress.mlflow_plugin.webhook import worker as module
from mlflow_compress.mlflow_plugin.webhook.queue import JobQueue
from mlflow_compress.mlflow_plugin.webhook.watched import Watched
from mlflow_compress.mlflow_plugin.webhook.worker import COMMAND, Worker


@pytest.fixture
def work(tmp_path):
    """Return a function that gives a worker whose jobs run some Python."""
    queues = []

    def make(script, *, models=("lenet",), log=None, **options):
        watched = [Watched(f"k{i}", tmp_path / f"{i}.yaml", m, f"{m}-edge")
                   for i, m in enumerate(models)]  # fmt: skip
        queue = JobQueue(tmp_path / "q", {one.key: one.model for one in watched}, settle=0)
        queues.append(queue)
        said = []
        command = (sys.executable, "-c", f"import os, sys, time, signal\n{script}")
        worker = Worker(queue, watched, log or said.append, command=command, **options)
        return worker, queue, said

    yield make
    for queue in queues:
        queue.close()


def until(condition, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def done_once(work, script, **options):
    """Do one job; return its outcome and the queue."""
    worker, queue, said = work(script, **options)
    queue.accept("1", time.time(), ["k0"])
    worker.start()
    until(lambda: said)
    worker.stop()
    (outcome,) = said
    return outcome, queue


def test_the_outcome_of_a_job_is_told(work, tmp_path):
    outcome, queue = done_once(work, 'print("{\\"trials\\": 3}", sys.argv[0] and ""); sys.exit(3)')
    assert outcome.pop("seconds") >= 0
    assert outcome == {
        "event": "job",
        "model": "lenet",
        "config": str(tmp_path / "0.yaml"),
        "exit_code": 3,
        "attempt": 1,
        "events": 1,
        "again_in": None,
        "result": {"trials": 3},
    }
    assert (queue.waiting(), queue.running()) == ([], [])


def test_a_job_is_the_retrain_command(monkeypatch):
    from click.testing import CliRunner

    from mlflow_compress.cli.main import cli
    from mlflow_compress.jobs import retrain as retraining

    assert COMMAND[:4] == (sys.executable, "-P", "-m", "mlflow_compress")
    done = CliRunner().invoke(cli, [*COMMAND[4:], "absent.yaml"])
    assert done.exit_code == 2
    assert json.loads(done.stdout).keys() == retraining.Result().to_dict().keys()


@pytest.mark.parametrize("code", [0, 1, 2, 3, 4])
def test_what_came_to_an_end_is_done(code):
    assert module._again(code, 1) is None


def test_what_was_out_of_reach_is_tried_again_for_hours():
    waits = [module._again(5, attempt) for attempt in range(1, 22)]
    assert waits[:3] == [60, 120, 240]
    assert waits[6:19] == [3600] * 13
    assert waits[19:] == [None, None]


def test_what_a_signal_ended_is_tried_thrice_and_what_is_busy_for_ever():
    assert [module._again(137, attempt) for attempt in (1, 2, 3)] == [60, 120, None]
    assert module._again(6, 1000) == 60


@pytest.mark.parametrize(("script", "code"), [
    ("os.kill(os.getpid(), signal.SIGKILL)", 137), ("sys.exit(5)", 5), ("sys.exit(6)", 6),
])  # fmt: skip
def test_a_job_to_be_tried_again_stays_on_the_queue(work, script, code):
    outcome, queue = done_once(work, script)
    assert (outcome["exit_code"], outcome["again_in"], outcome["result"]) == (code, 60, None)
    (job,) = queue.waiting()
    assert job.attempts == (0 if code == 6 else 1)
    assert job.due > time.time() + 30


def test_a_job_does_not_see_the_secret(work, monkeypatch):
    monkeypatch.setenv("HOOK", "0123456789abcdef")
    monkeypatch.setenv("OTHER", "seen")
    script = "print([int('HOOK' in os.environ), int(os.environ['OTHER'] == 'seen')])"
    outcome, _ = done_once(work, script, without=["HOOK"])
    assert outcome["result"] == [0, 1]


def test_a_job_that_prints_no_json_has_no_result(work):
    assert done_once(work, "print('hello')")[0]["result"] is None


def test_stopping_ends_jobs_as_ctrl_c_would_and_keeps_them(work, tmp_path):
    begun = tmp_path / "begun"
    script = f"""
def stop(*_):
    print('{{"closed": true}}'); sys.exit(130)
signal.signal(signal.SIGTERM, stop)
open({str(begun)!r}, "w").close()
time.sleep(600)
"""
    worker, queue, said = work(script)
    queue.accept("1", time.time(), ["k0"])
    worker.start()
    until(begun.exists)
    ((model, since),) = worker.running()
    assert model == "lenet"
    assert time.time() - 60 < since <= time.time()
    worker.stop()
    (outcome,) = said
    assert (outcome["exit_code"], outcome["again_in"]) == (130, 0)
    assert outcome["result"] == {"closed": True}
    (job,) = queue.waiting()
    assert job.attempts == 0
    assert not worker.is_alive()


def test_a_job_that_will_not_end_is_killed_with_all_that_it_started(work, tmp_path):
    child = tmp_path / "child"
    script = f"""
signal.signal(signal.SIGTERM, signal.SIG_IGN)
pid = os.fork()
if pid:
    with open({str(child)!r} + "~", "w") as file:
        file.write(str(pid))
    os.rename({str(child)!r} + "~", {str(child)!r})
time.sleep(600)
"""
    worker, queue, said = work(script, grace=0.1)
    queue.accept("1", time.time(), ["k0"])
    worker.start()
    until(child.exists)
    worker.stop()
    assert said[0]["exit_code"] == 137
    assert len(queue.waiting()) == 1
    stat = Path(f"/proc/{child.read_text()}/stat")
    until(lambda: not stat.exists() or stat.read_text().split()[2] == "Z")


def test_models_are_worked_on_side_by_side_each_by_one_job(work, tmp_path):
    script = f"""
import pathlib
mine = pathlib.Path({str(tmp_path)!r}, f"at-work-{{os.getpid()}}")
mine.touch()
end = time.time() + 60
while len(list(mine.parent.glob("at-work-*"))) < 2 and time.time() < end:
    time.sleep(0.01)
print(len(list(mine.parent.glob("at-work-*"))))
time.sleep(0.2)
mine.unlink()
"""
    worker, queue, said = work(script, models=("lenet", "resnet", "lenet"), jobs=2)
    queue.accept("1", time.time(), ["k0", "k1", "k2"])
    seen = set()
    worker.start()
    until(lambda: seen.add(tuple(sorted(m for m, _ in worker.running()))) or len(said) >= 2)
    worker.stop()
    assert ("lenet", "resnet") in seen
    assert ("lenet", "lenet") not in seen
    assert [one["result"] for one in said[:2]] == [2, 2]


def test_a_full_disk_is_told_and_gone_on_after(work, monkeypatch):
    monkeypatch.setattr(module, "_IDLE_SECONDS", 0.05)
    worker, queue, said = work("pass")
    real = queue.take
    failing = iter([OSError(28, "No space left on device")])

    def take(timeout):
        for error in failing:
            raise error
        return real(timeout)

    monkeypatch.setattr(queue, "take", take)
    queue.accept("1", time.time(), ["k0"])
    worker.start()
    until(lambda: len(said) == 2)
    worker.stop()
    assert said[0] == {"event": "trouble", "error": "No space left on device"}
    assert said[1]["exit_code"] == 0


def test_a_job_that_cannot_be_started_waits(work, monkeypatch):
    worker, queue, said = work("pass")
    worker._command = (os.devnull,)
    queue.accept("1", time.time(), ["k0"])
    worker.start()
    until(lambda: said)
    worker.stop()
    assert said[0]["error"] == "Permission denied"
    assert len(queue.waiting()) == 1


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"),
                                   ValueError("I/O operation on closed file")])  # fmt: skip
@pytest.mark.parametrize("failures", [1, 1000])
def test_a_log_that_fails_holds_no_job_up(work, monkeypatch, error, failures):
    monkeypatch.setattr(module, "_IDLE_SECONDS", 0.05)
    lines = []

    def log(happened):
        lines.append(happened)
        if len(lines) <= failures:
            raise error

    worker, queue, _ = work("pass", log=log)
    queue.accept("1", time.time(), ["k0"])
    worker.start()
    until(lambda: lines)
    queue.accept("2", time.time(), ["k0"])
    until(lambda: len(lines) == 2)
    assert worker.is_alive()
    assert (queue.waiting(), queue.running()) == ([], [])
    worker.stop()
    assert [line["exit_code"] for line in lines] == [0, 0]


def test_trouble_that_cannot_be_told_is_gone_on_after(work, monkeypatch):
    def broken(happened):
        raise BrokenPipeError(32, "Broken pipe")

    monkeypatch.setattr(module, "_IDLE_SECONDS", 0.05)
    worker, queue, _ = work("pass", log=broken)
    real = queue.take
    failing = iter([OSError(28, "No space left on device")] * 2)

    def take(timeout):
        for error in failing:
            raise error
        return real(timeout)

    monkeypatch.setattr(queue, "take", take)
    queue.accept("1", time.time(), ["k0"])
    worker.start()
    until(lambda: worker.last)
    worker.stop()
    assert worker.last.exit_code == 0
    assert queue.waiting() == []
