import os

import pytest

from mlflow_compress.measure import affinity
from mlflow_compress.measure.affinity import pinned, usable_cores


class System:
    """The part of ``os`` that knows cores; this process may use 2, 3, 5 and 7."""

    def __init__(self):
        self.cores, self.seen = {7, 2, 5, 3}, []

    def sched_getaffinity(self, pid):
        assert pid == 0
        return set(self.cores)

    def sched_setaffinity(self, pid, cores):
        assert pid == 0
        self.cores = set(cores)
        self.seen.append(sorted(cores))


@pytest.fixture
def system(monkeypatch):
    made = System()
    monkeypatch.setattr(affinity, "os", made)
    return made


@pytest.mark.parametrize(("threads", "cores"), [(1, {2}), (3, {2, 3, 5}), (9, {2, 3, 5, 7})])
def test_only_cores_that_may_be_used_and_as_many_as_threads(system, threads, cores):
    assert usable_cores() == 4
    with pinned(threads):
        assert system.cores == cores
        with pinned(threads):
            assert system.cores == cores
        assert system.cores == cores
    assert system.cores == {2, 3, 5, 7}


def test_restored_when_measuring_fails(system):
    with pytest.raises(RuntimeError), pinned(1):
        raise RuntimeError
    assert system.cores == {2, 3, 5, 7}


def test_a_system_that_forbids_it_or_has_none(system, monkeypatch):
    def forbid(pid, cores):
        raise PermissionError

    system.sched_setaffinity = forbid
    with pinned(1):
        assert system.cores == {2, 3, 5, 7}

    class Bare:
        @staticmethod
        def cpu_count():
            return 6

    monkeypatch.setattr(affinity, "os", Bare)
    with pinned(1):
        assert usable_cores() == 6


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="the system has no affinity")
def test_the_system_itself():
    before = os.sched_getaffinity(0)
    with pinned(1):
        assert os.sched_getaffinity(0) == {min(before)}
    assert os.sched_getaffinity(0) == before
