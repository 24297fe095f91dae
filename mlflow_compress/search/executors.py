"""Where trials run: in this process, in others, or on a cluster, all behind one seam.

A trial is a pure function of what it is given, so that it can run anywhere and be repeated. What
every trial needs (the source, the data) is shared once and reaches each worker once.
"""

import importlib
import os
import threading
import time
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from multiprocessing import resource_tracker
from pathlib import Path
from typing import Any, ClassVar

from mlflow_compress.base.bounds import most_processes
from mlflow_compress.base.plugins import Group
from mlflow_compress.base.variables import put_back, variable
from mlflow_compress.errors import CompressError, ConfigError

__all__ = [
    "Executor",
    "Inline",
    "Options",
    "Process",
    "check_workers",
    "cores",
    "executor_names",
    "get_executor",
    "own_modules",
    "start_early",
    "usual_workers",
    "worker_died",
]

_GROUP = Group("mlflow_compress.executors", "search.executor")

_MOST_WORKERS = 4
"""More processes of this machine are started only when asked for: each holds the data."""

_ONE_THREAD = dict.fromkeys(
    ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "RAYON_NUM_THREADS"), "1"
)

_SAFE_PATH = "PYTHONSAFEPATH"

_DEAD = frozenset(
    {
        "BrokenExecutor",
        "BrokenProcessPool",
        "TerminatedWorkerError",
        "KilledWorker",
        "WorkerCrashedError",
        "NodeDiedError",
        "ObjectLostError",
    }
)
"""What pools and clusters raise when a worker is gone, by class name: no common base class."""


@dataclass(frozen=True)
class Options:
    """What an executor may be told.

    Attributes:
        workers: how many trials run at a time; None is what the machine or the cluster has.
        address: where the cluster is (``tcp://host:8786``, ``ray://host:10001``, ``auto``); empty
            starts one on this machine.
        wait: seconds to wait for a suitable worker.
        device: whether trials are timed, which asks for a worker with the resource ``device``.
        env: environment variables of workers on this machine.
    """

    workers: int | None = None
    address: str = ""
    wait: float = 60.0
    device: bool = False
    env: Mapping[str, str] = field(default_factory=lambda: dict(_ONE_THREAD))


class Executor(ABC):
    """Runs functions, several at a time; used by one search.

    Attributes:
        name: the word used in configurations.
        workers: how many run at a time, known once it is open.
        is_local: whether functions run in the calling process, each before ``submit`` returns.
        times_here: whether latency is measured by the calling process, else by ``submit`` with
            ``device``.
        needs_modules: what :meth:`open` imports beyond the base install: by module, what pip
            installs it by.
    """

    name: ClassVar[str]
    is_local: ClassVar[bool] = False
    times_here: ClassVar[bool] = False
    needs_modules: ClassVar[Mapping[str, str]] = {}

    def __init__(self, options: Options) -> None:
        self.options = options
        self.workers = options.workers or 1

    @abstractmethod
    def open(self) -> None:
        """Start workers, or find them.

        Raises:
            MissingDependencyError: a package is missing.
            UnreachableError: there is no cluster, or none with a suitable worker in time.
        """

    @abstractmethod
    def share(self, path: Path) -> Any:
        """Return an argument for :meth:`submit` that arrives as the file's bytes, or its path."""

    @abstractmethod
    def submit(
        self, function: Callable[..., Any], *args: Any, device: bool = False
    ) -> "Future[Any]":
        """Begin to run a function.

        Args:
            function: importable by name on the workers.
            args: what it gets; may hold shared arguments.
            device: run it on a worker with the resource ``device``, of which there is one, so that
                nothing else that asks for it runs at the same time.
        """

    @abstractmethod
    def repair(self) -> None:
        """Replace workers that died; what was running is not run again."""

    @abstractmethod
    def close(self) -> None:
        """End the workers at once; safe to call twice, and when opening failed."""


class Inline(Executor):
    """Runs each trial in the calling process, one after the other."""

    name = "inline"
    is_local = True
    times_here = True

    def __init__(self, options: Options) -> None:
        super().__init__(options)
        self.workers = 1

    def open(self) -> None:
        """Need nothing."""

    def share(self, path: Path) -> Any:
        """Return the path."""
        return str(path)

    def submit(
        self, function: Callable[..., Any], *args: Any, device: bool = False
    ) -> "Future[Any]":
        """Run a function now."""
        future: Future[Any] = Future()
        future.set_result(function(*args))
        return future

    def repair(self) -> None:
        """Have no workers."""

    def close(self) -> None:
        """Have no workers."""


class Process(Executor):
    """Runs trials in processes of this machine, kept alive from one search to the next (loky)."""

    name = "process"
    times_here = True
    _started: ClassVar[int] = 0

    def __init__(self, options: Options) -> None:
        super().__init__(options)
        # those that were started early serve a search of fewer trials too: resizing would wait
        self.workers = max(options.workers or cores(), Process._started)
        self._pool: Any = None
        self._busy: set[Future[Any]] = set()

    def open(self) -> None:
        """Start the processes, or find those that were started before."""
        from loky import get_reusable_executor

        # of one that was idle while the others trained: loky starts another, nothing is lost
        warnings.filterwarnings("ignore", "A worker stopped while some jobs were given")
        with own_modules() as told:
            resource_tracker.ensure_running()  # else the first worker starts it, later
            self._pool = get_reusable_executor(
                max_workers=self.workers,
                timeout=60,
                env={**self.options.env, _SAFE_PATH: "1"},
                initializer=_begin,
                initargs=(os.getpid(), told),
            )

    def warm(self) -> None:
        """Start the processes and let them import what a trial needs, without waiting for it."""
        self.open()
        Process._started = self.workers
        for _ in range(self.workers):
            self._pool.submit(_import_early)

    def share(self, path: Path) -> Any:
        """Return the path: the processes see the same files."""
        return str(path)

    def submit(
        self, function: Callable[..., Any], *args: Any, device: bool = False
    ) -> "Future[Any]":
        """Begin to run a function."""
        future: Future[Any] = self._pool.submit(function, *args)
        self._busy.add(future)
        future.add_done_callback(self._busy.discard)
        return future

    def repair(self) -> None:
        """Start new processes."""
        self.open()

    def close(self) -> None:
        """End processes that still run something; idle ones serve the next search."""
        if self._pool is not None:
            if self._busy:
                self._pool.shutdown(wait=True, kill_workers=True)
            self._pool = None


def own_modules() -> AbstractContextManager[str | None]:
    """Start processes that take no modules from the current folder before they are told to.

    ``python -c`` and ``python -m`` look there first, and with them what pools start: a
    ``tempfile.py`` that lies there would run. What this process imports is unchanged, and workers
    look where it looks. It gives what the variable was before.
    """
    return variable(_SAFE_PATH, "1")


def _begin(parent: int, safe_path: str | None) -> None:
    """Begin as a worker: programs that functions of the user start are started as ever."""
    put_back(_SAFE_PATH, safe_path)
    _end_with(parent)


def _end_with(parent: int) -> None:
    """End this process soon after its parent, which may be killed and then ends nothing itself."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1.0)
        os._exit(1)

    threading.Thread(target=watch, name="end with parent", daemon=True).start()


def _import_early() -> None:
    for module in ("mlflow_compress.search.worker", "onnxruntime", "scipy.linalg"):
        importlib.import_module(module)


def start_early(name: str, workers: int | None, window: int) -> None:
    """Start the processes of this machine, if that is the executor, while the caller imports.

    Args:
        name: the executor's name.
        workers: how many, as the configuration says.
        window: how many trials are on their way at most.

    Raises:
        ConfigError: as :func:`check_workers`.
    """
    check_workers(name, workers, window)
    count = usual_workers(workers, window)
    if name == Process.name and count > 1:
        Process(Options(count)).warm()


def check_workers(name: str, workers: int | None, window: int, *, is_here: bool = True) -> None:
    """Refuse more workers than have any use.

    Args:
        name: the executor's name.
        workers: how many, as the configuration says.
        window: how many trials are on their way at most.
        is_here: whether they are processes of this machine.

    Raises:
        ConfigError: with the number that has a use.
    """
    if workers is None:
        return
    if workers > window:
        raise ConfigError(
            f"search.workers: {window} trials are on their way at most, got {workers}: set "
            f"search.window to {workers} too"
        )
    most = most_processes(cores())
    if is_here and name != Inline.name and workers > most:
        raise ConfigError(
            f"search.workers: {most} processes are started on a machine of {cores()} cores at "
            f"most, got {workers}: lower it, or set search.cluster to a cluster's address"
        )


def usual_workers(workers: int | None, window: int) -> int:
    """Return how many trials of many run at a time on this machine: what was asked for, if it was.

    Args:
        workers: how many were asked for.
        window: how many trials are on their way at most.
    """
    return workers or min(cores(), _MOST_WORKERS, window)


def cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def worker_died(error: BaseException) -> bool:
    """Whether an error says that a worker is gone, rather than what the trial did."""
    names = {kind.__name__ for kind in type(error).__mro__}
    return not isinstance(error, CompressError) and bool(names & _DEAD)


def executor_names() -> list[str]:
    """Return the names of all installed executors, sorted."""
    return list(_GROUP.names())


def get_executor(name: str, options: Options) -> Executor:
    """Return a new executor by its name.

    Raises:
        ConfigError: there is none of that name; the message lists what there is.
    """
    made: Executor = _GROUP.load(name)(options)
    return made
