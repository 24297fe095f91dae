"""Executors that run trials on clusters: dask and ray, each imported when it is opened."""

import os
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from pathlib import Path
from typing import Any, ClassVar

from mlflow_compress.base.modules import require_modules
from mlflow_compress.errors import UnreachableError
from mlflow_compress.search.executors import Executor, Options, cores, own_modules

__all__ = ["Dask", "Ray"]


class Dask(Executor):
    """Runs trials on a dask cluster, or on a local one started for the search."""

    name = "dask"
    needs_modules: ClassVar[Mapping[str, str]] = {"distributed": "mlflow-compress[dask]"}

    def __init__(self, options: Options) -> None:
        super().__init__(options)
        self._cluster: Any = None
        self._client: Any = None

    def open(self) -> None:
        """Connect to the cluster, or start one, and wait for its workers."""
        require_modules(self.needs_modules, "search.executor dask")
        from distributed import Client, LocalCluster

        wait, address = self.options.wait, self.options.address
        if not address:
            with own_modules():
                self._cluster = LocalCluster(
                    n_workers=self.options.workers or cores(),
                    threads_per_worker=1,
                    resources={"device": 1},
                    dashboard_address=None,
                    host="127.0.0.1",
                    env=dict(self.options.env),
                )
        try:
            self._client = Client(self._cluster or address, timeout=wait)
        except (OSError, ValueError) as error:
            raise UnreachableError(f"dask: no scheduler answers at {address}: {error}") from error
        self._await_workers(wait)

    def _await_workers(self, wait: float) -> None:
        end = time.monotonic() + wait
        wanted = 1 if self.options.address else self.options.workers or cores()
        while True:
            known = self._client.scheduler_info(n_workers=-1)["workers"]
            timed = [w for w in known.values() if w.get("resources", {}).get("device", 0) >= 1]
            if len(known) >= wanted and (timed or not self.options.device):
                break
            if time.monotonic() >= end:
                what = "no worker" if not known else "no worker with --resources device=1"
                raise UnreachableError(
                    f"dask: the cluster offers {what} after {wait:g} s ({len(known)} workers); "
                    "latency is measured on one that has the resource device=1"
                    if known
                    else f"dask: the cluster offers no worker after {wait:g} s"
                )
            time.sleep(0.05)
        self.workers = min(self.options.workers or len(known), max(len(known), 1))

    def share(self, path: Path) -> Any:
        """Hand the file to the cluster once; workers fetch it from each other.

        As a task and not as scattered data: the scheduler makes it again when the worker that
        held it dies.
        """
        return self._client.submit(bytes, path.read_bytes(), pure=False)

    def submit(
        self, function: Callable[..., Any], *args: Any, device: bool = False
    ) -> "Future[Any]":
        """Begin to run a function."""
        resources = {"device": 1} if device else None
        inner = self._client.submit(
            function, *args, resources=resources, pure=False, retries=0, priority=10 * device
        )
        outer: Future[Any] = Future()

        def done(finished: Any) -> None:
            try:
                outer.set_result(finished.result())
            except Exception as error:  # noqa: BLE001 - handed on to whoever waits
                outer.set_exception(error)
            except BaseException as error:  # noqa: BLE001 - dask's cancelled futures
                outer.set_exception(UnreachableError(f"dask: the scheduler is gone ({error})"))

        inner.add_done_callback(done)
        return outer

    def repair(self) -> None:
        """Wait for the workers that nannies start again."""
        self._await_workers(self.options.wait)

    def close(self) -> None:
        """Leave the cluster; end it if it was started here."""
        for held in (self._client, self._cluster):
            if held is not None:
                held.close()
        self._client = self._cluster = None


class Ray(Executor):
    """Runs trials on a ray cluster, or on a local one started for the search."""

    name = "ray"
    needs_modules: ClassVar[Mapping[str, str]] = {"ray": "mlflow-compress[ray]"}

    def __init__(self, options: Options) -> None:
        super().__init__(options)
        self._ray: Any = None
        self._is_ours = True

    def open(self) -> None:
        """Connect to the cluster, start one, or use the one that this process is in already."""
        require_modules(self.needs_modules, "search.executor ray")
        import ray

        count = self.options.workers or cores()
        # workers import what this process imports, and print nothing into its output
        paths = os.environ.get("PYTHONPATH", "")
        quiet: dict[str, Any] = {
            "log_to_driver": False,
            "logging_level": "ERROR",
            "runtime_env": {"env_vars": {**self.options.env, "PYTHONPATH": paths}},
        }
        self._is_ours = not ray.is_initialized()
        try:
            if not self._is_ours:
                pass
            elif self.options.address:
                ray.init(self.options.address, **quiet)
            else:
                with own_modules():
                    ray.init(
                        num_cpus=count, resources={"device": 1}, include_dashboard=False, **quiet
                    )
        except (ConnectionError, RuntimeError, OSError, ValueError) as error:
            first = str(error).strip().splitlines()[0]
            where = self.options.address or "this machine"
            raise UnreachableError(f"ray: no cluster at {where}: {first}") from error
        self._ray = ray
        has = ray.cluster_resources()
        if has.get("CPU", 0) < 1:
            self.close()
            raise UnreachableError("ray: the cluster offers no CPU: start a node with --num-cpus")
        if self.options.device and has.get("device", 0) < 1:
            self.close()
            raise UnreachableError(
                "ray: the cluster offers no worker with the resource device=1, on which latency "
                "is measured: start a node with --resources='{\"device\": 1}'"
            )
        self.workers = max(1, min(count, int(has.get("CPU", 1))))

    def share(self, path: Path) -> Any:
        """Put the file into the object store once."""
        return self._ray.put(path.read_bytes())

    def submit(
        self, function: Callable[..., Any], *args: Any, device: bool = False
    ) -> "Future[Any]":
        """Begin to run a function."""
        asked = {"resources": {"device": 1}} if device else {}
        remote = self._ray.remote(max_retries=0, num_cpus=1, **asked)(_call)
        future: Future[Any] = remote.remote(function, *args).future()
        return future

    def repair(self) -> None:
        """Need nothing: ray starts workers as it needs them."""

    def close(self) -> None:
        """Leave the cluster; end it if it was started here."""
        if self._ray is not None and self._is_ours:
            self._ray.shutdown()
        self._ray = None


def _call(function: Callable[..., Any], *args: Any) -> Any:
    return function(*args)  # ray takes no built-in functions as tasks
