"""A job goes on in the run that it was broken off in, and its end says how it came to it."""

import json

import pytest

from mlflow_compress.errors import DataError, UnreachableError
from mlflow_compress.jobs.nas.resumable import JobRun, resumable


class Runs:
    """Stands for the runs of an experiment."""

    def __init__(self, open_ones=()):
        self.open_ones, self.closed = set(open_ones), {}

    def goes_on(self, run_id):
        return run_id in self.open_ones

    def close(self, run_id, status="FINISHED"):
        self.closed[run_id] = status


@pytest.fixture
def marker(tmp_path):
    return tmp_path / "job.run"


def job(runs, marker, *, made="new", error=None, told=None, **options):
    heard = [] if told is None else told
    with resumable(
        runs, marker, lambda: JobRun(made, {"n": 1}), what="search", tell=heard.append, **options
    ) as run:
        if error is not None:
            raise error
    return run


def test_a_job_that_ends_leaves_no_marker(marker):
    runs = Runs()
    assert job(runs, marker).id == "new"
    assert runs.closed == {"new": "FINISHED"} and not marker.exists()


def test_one_that_is_interrupted_goes_on_with_what_it_said(marker):
    runs, told = Runs(), []
    with pytest.raises(KeyboardInterrupt):
        job(runs, marker, error=KeyboardInterrupt())
    assert runs.closed == {"new": "KILLED"}
    again = Runs(open_ones=["new"])
    run = job(again, marker, made="another", told=told)
    assert (run.id, run.said) == ("new", {"n": 1})
    assert told == ["going on with the search that was broken off (run new)"]


def test_one_that_is_refused_begins_anew(marker):
    runs = Runs(open_ones=["new"])
    with pytest.raises(DataError):
        job(runs, marker, error=DataError("no rows"))
    assert runs.closed == {"new": "FAILED"} and not marker.exists()
    assert job(runs, marker, made="another").id == "another"


def test_a_run_that_is_gone_or_a_damaged_marker_begins_anew(marker):
    marker.write_text(json.dumps({"run": "gone", "n": 1}))
    assert job(Runs(), marker).id == "new"
    marker.write_text(json.dumps({"run": "old"}))
    run = job(Runs(open_ones=["old"]), marker, is_whole=lambda said: said["n"])
    assert run.id == "new"


def test_what_ended_it_is_said_and_not_what_closing_met(marker):
    class Down(Runs):
        def close(self, run_id, status="FINISHED"):
            raise UnreachableError("the end")

    with pytest.raises(DataError, match="no rows"):
        job(Down(), marker, error=DataError("no rows"))


@pytest.mark.parametrize(
    "said", ["[]", "3", '"run"', '{"run": 3}', "{}", '{"run": "\' OR \'1"}', "{"]
)
def test_a_marker_that_says_no_run_begins_anew(marker, said):
    marker.write_text(said)
    assert job(Runs(open_ones=["' OR '1", "3"]), marker).id == "new"
