"""The contract of an executor."""

import os
import signal
import time
from collections.abc import Iterator
from concurrent.futures import wait
from pathlib import Path
from typing import Any, ClassVar

import pytest

from mlflow_compress.search.executors import Executor, Options, worker_died

__all__ = ["ExecutorContract"]


class ExecutorContract:
    """Every executor passes these cases.

    A subclass says which executor, with one fixture; the functions of this module have to be
    importable on its workers::

        class TestSlurm(ExecutorContract):
            @pytest.fixture(scope="class")
            @classmethod
            def executor_type(cls):
                return Slurm

    Attributes:
        workers: how many workers to ask for.
        mortal: whether a worker can be killed without the calling process.
    """

    workers: ClassVar[int] = 2
    mortal: ClassVar[bool] = True

    @pytest.fixture(scope="class")
    @classmethod
    def executor_type(cls) -> type[Executor]:
        """The class; the one fixture that a subclass must give."""
        raise NotImplementedError("give a fixture `executor_type`")

    @pytest.fixture(scope="class")
    @classmethod
    def executor(cls, executor_type: type[Executor]) -> Iterator[Executor]:
        """One that is open."""
        made = executor_type(Options(workers=cls.workers, device=True))
        made.open()
        yield made
        made.close()
        made.close()  # closing twice is nothing

    def test_it_has_a_name_and_workers(self, executor: Executor) -> None:
        """The name is that of configurations; one worker at least is there."""
        assert executor.name.isidentifier()
        assert 1 <= executor.workers <= self.workers

    def test_what_a_function_returns_comes_back(self, executor: Executor) -> None:
        """Each future has its own result."""
        futures = [executor.submit(pow, 2, n) for n in range(6)]
        assert [future.result(timeout=120) for future in futures] == [1, 2, 4, 8, 16, 32]

    def test_what_a_function_raises_comes_back(self, executor: Executor) -> None:
        """An error of the function is no death of a worker."""
        if executor.is_local:
            with pytest.raises(ZeroDivisionError):
                executor.submit(divmod, 1, 0).result()
            return
        error = executor.submit(divmod, 1, 0).exception(timeout=120)
        assert error is not None
        assert not worker_died(error)
        assert "division" in str(error) or "zero" in str(error)

    def test_futures_are_those_of_the_standard_library(self, executor: Executor) -> None:
        """``concurrent.futures.wait`` takes them."""
        done, rest = wait([executor.submit(abs, -n) for n in range(3)], timeout=120)
        assert len(done) == 3
        assert not rest

    def test_a_shared_file_arrives(self, executor: Executor, tmp_path: Path) -> None:
        """As its bytes, or as a path that holds them."""
        (tmp_path / "shared").write_bytes(b"\0shared\xff")
        shared = executor.share(tmp_path / "shared")
        for _ in range(2):
            assert executor.submit(_read, shared).result(timeout=120) == b"\0shared\xff"

    def test_what_is_timed_runs_alone(self, executor: Executor) -> None:
        """Two functions that ask for the device never overlap."""
        futures = [executor.submit(_when, 0.2, device=True) for _ in range(2)]
        if executor.times_here:
            pytest.skip("latency is measured by the calling process")
        (_, end), (begin, _) = sorted(future.result(timeout=120) for future in futures)
        assert end <= begin

    def test_a_worker_that_dies_is_told_and_replaced(self, executor: Executor) -> None:
        """The future says so, and after a repair there are workers again."""
        if not self.mortal:
            pytest.skip("its worker is the calling process")
        error = executor.submit(_die).exception(timeout=120)
        assert error is not None
        assert worker_died(error), f"{type(error).__name__} is not known as a dead worker"
        executor.repair()
        assert executor.submit(abs, -3).result(timeout=120) == 3


def _read(shared: Any) -> bytes:
    return Path(shared).read_bytes() if isinstance(shared, str) else bytes(shared)


def _when(seconds: float) -> tuple[float, float]:
    begin = time.time()
    time.sleep(seconds)
    return begin, time.time()


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)
