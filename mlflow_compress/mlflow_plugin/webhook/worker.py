"""Does the jobs of a queue, each in a process of its own, and tells what came of them."""

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import IO, Any

from mlflow_compress.base.children import ending_with_parent
from mlflow_compress.base.json_text import parse_json
from mlflow_compress.mlflow_plugin.webhook.queue import LONGEST, Job, JobQueue
from mlflow_compress.mlflow_plugin.webhook.watched import Watched

__all__ = ["COMMAND", "Finished", "Log", "Worker", "undisturbed", "utc"]

Log = Callable[[Mapping[str, Any]], None]
"""Takes one thing that happened, as plain data."""

COMMAND = (sys.executable, "-P", "-m", "mlflow_compress", "retrain", "--json", "--wait", "60")
"""What a job runs; the configuration's path comes behind it.

Without ``-P`` Python would take modules from the receiver's folder first, ours among them.
"""

_UNREACHABLE, _BUSY, _STOPPED = 5, 6, 130
_MINUTE = 60.0
_MOST_LINE = 1 << 20
"""Bytes of the line in which a job says what came of it."""

_TRIES_UNREACHABLE = 20
_TRIES_KILLED = 3
_IDLE_SECONDS = 5.0


@dataclass(frozen=True)
class Finished:
    """The outcome of a job, without anything that could be secret.

    Attributes:
        model: the source's registered model.
        exit_code: of the job, 128 and the signal's number when one ended it.
        ended: when, in seconds since the epoch.
    """

    model: str
    exit_code: int
    ended: float


class Worker:
    """Does jobs until it is stopped.

    Args:
        queue: where they come from.
        watched: the configurations.
        log: is told the outcome of each job.
        jobs: how many at a time.
        grace: seconds that running jobs have to end in when the worker is stopped.
        without: environment variables that jobs do not get to see.
        command: what a job runs.
    """

    def __init__(
        self,
        queue: JobQueue,
        watched: Iterable[Watched],
        log: Log,
        *,
        jobs: int = 1,
        grace: float = 60.0,
        without: Iterable[str] = (),
        command: Sequence[str] = COMMAND,
    ) -> None:
        self.last: Finished | None = None
        self._queue, self._log, self._grace = queue, undisturbed(log), grace
        self._paths = {one.key: one.path for one in watched}
        self._command = tuple(command)
        hidden = set(without)
        self._environment = {k: v for k, v in os.environ.items() if k not in hidden}
        self._stopping = threading.Event()
        self._begun: dict[str, float] = {}
        self._processes: set[subprocess.Popen[bytes]] = set()
        self._starting = threading.Lock()
        self._threads = [threading.Thread(target=self._work, daemon=True) for _ in range(jobs)]

    def start(self) -> None:
        """Begin."""
        for thread in self._threads:
            thread.start()

    def is_alive(self) -> bool:
        """Whether every thread still works on the queue."""
        return all(thread.is_alive() for thread in self._threads)

    def running(self) -> list[tuple[str, float]]:
        """Return the models that are worked on, and since when."""
        return [(job.model, self._begun.get(job.key, time.time())) for job in self._queue.running()]

    def stop(self) -> None:
        """End running jobs as Ctrl-C would; they stay on the queue."""
        with self._starting:
            self._stopping.set()
            processes = list(self._processes)
        self._queue.shut()
        for process in processes:
            process.terminate()
        end = time.monotonic() + self._grace
        for process in processes:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(max(end - time.monotonic(), 0))
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
        for thread in self._threads:
            thread.join()

    def _work(self) -> None:
        while not self._stopping.is_set():
            try:
                job = self._queue.take(_IDLE_SECONDS)
                if job is not None:
                    self._do(job)
            except OSError as error:
                # The disk is full or gone. What is on it is still to be done.
                self._log({"event": "trouble", "error": error.strerror})
                self._stopping.wait(_IDLE_SECONDS)

    def _do(self, job: Job) -> None:
        begun = self._begun[job.key] = time.time()
        try:
            with tempfile.TemporaryFile() as output:
                code = self._run([*self._command, str(self._paths[job.key])], output)
                output.seek(max(output.seek(0, os.SEEK_END) - _MOST_LINE, 0))
                result = _line(output.read())
        except OSError:  # no process, or no place for what it says
            self._queue.again(job, _MINUTE)
            raise
        stopped = self._stopping.is_set() and code not in (0, 3)
        delay = 0.0 if stopped else _again(code, job.attempts)
        self.last = Finished(job.model, code, time.time())
        told = {
            "event": "job",
            "model": job.model,
            "config": str(self._paths[job.key]),
            "exit_code": code,
            "seconds": round(time.time() - begun, 1),
            "attempt": job.attempts,
            "events": job.events,
            "again_in": delay,
            "result": result,
        }
        try:
            if delay is None:
                self._queue.finish(job)
            else:
                self._queue.again(job, delay, counts=not stopped and code != _BUSY)
        finally:
            self._log(told)

    def _run(self, command: Sequence[str], output: IO[bytes]) -> int:
        """Run a job's process; return its exit code as a shell would give it."""
        with self._starting:
            if self._stopping.is_set():
                return _STOPPED
            # In a session of its own: Ctrl-C reaches the receiver alone, which passes it on.
            process = subprocess.Popen(
                ending_with_parent(command, self._environment),
                stdin=subprocess.DEVNULL,
                stdout=output,
                env=self._environment,
                start_new_session=True,
            )
            self._processes.add(process)
        code = process.wait()
        with self._starting:
            self._processes.discard(process)
        return 128 - code if code < 0 else code


def _again(code: int, attempts: int) -> float | None:
    """Return after how many seconds a job is tried again, None for never."""
    if code == _BUSY:
        return _MINUTE
    tries = {_UNREACHABLE: _TRIES_UNREACHABLE}.get(code, _TRIES_KILLED if code > 128 else 0)
    if attempts >= tries:
        return None
    return min(_MINUTE * 2.0 ** (attempts - 1), LONGEST)


def _line(output: bytes) -> Any:
    """Return what a job said in its line, None when it did not get so far."""
    try:
        return parse_json(output.splitlines()[-1])
    except (ValueError, IndexError):
        return None


def undisturbed(log: Log) -> Log:
    """Return a log whose failures (a full disk, a closed pipe or stream) disturb no work.

    What could not be told is lost; the work is what counts.
    """

    def told(happened: Mapping[str, Any]) -> None:
        with contextlib.suppress(OSError, ValueError):
            log(happened)

    return told


def utc(seconds: float) -> str:
    """Return a moment as ISO 8601 in UTC."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))
