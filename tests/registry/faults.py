"""Kills, faults and races against real stores; ends with one line of counts.

    python tests/registry/faults.py [--kills N] [--faults N] [--promoters N] [--postgres]

Every case is a job (search with two trials, register, promote for two targets) that something is
done to, and a second run of the same job. Afterwards there must be exactly one version per
variant, each alias on the right one, a finished decision for it, no run left open, and no logged
model that is not ready. Every job runs in a process of its own, forked from this one, which does
nothing but fork: nothing of a killed job can leak into the next.
"""

import argparse
import hashlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import traceback
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

os.environ.update(
    OMP_NUM_THREADS="1",
    MLFLOW_HTTP_REQUEST_MAX_RETRIES="0",
    MLFLOW_HTTP_REQUEST_TIMEOUT="60",
    MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR="false",
    MLFLOW_LOGGING_LEVEL="CRITICAL",
    MLFLOW_DISABLE_TELEMETRY="true",
)

import numpy as np
from mlflow import MlflowClient
from onnx import TensorProto, helper, numpy_helper

from mlflow_compress import packed
from mlflow_compress.errors import UnreachableError
from mlflow_compress.mlflow_plugin.tracking import Tracker
from mlflow_compress.records import (
    Accuracy,
    DatasetRef,
    Interval,
    Recipe,
    Report,
    Step,
    Trial,
    Variant,
)
from mlflow_compress.registry.decisions import DecisionLog
from mlflow_compress.registry.promotion import promote
from mlflow_compress.registry.variants import register_variants
from mlflow_compress.search.observer import SearchInfo
from mlflow_compress.targets import AccuracyLimits, Limits, Target

ROWS = DatasetRef("digits", "ab" * 32, 1000)
SMALL = Target("small", Limits(size_bytes=10**6), AccuracyLimits(max_drop=0.01), min_improvement=0)
EXACT = replace(SMALL, name="exact", objective="accuracy")
TARGETS = [SMALL, EXACT]
FAULTS = ("500", "timeout", "drop", "lost")
PATIENCE = 20.0


class BrokenError(AssertionError):
    """A case ended in a state that it must not end in."""


def write_models(folder: Path) -> list[Path]:
    """Write two packed networks; a job's two trials."""
    rng = np.random.default_rng(0)
    paths = []
    for width in (8, 16):
        weights = numpy_helper.from_array(rng.normal(size=(4, width)).astype(np.float32), "w")
        graph = helper.make_graph(
            [helper.make_node("MatMul", ["x", "w"], ["y"])],
            "g",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 4])],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", width])],
            [weights],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
        path = folder / f"{width}.onnx"
        packed.save(packed.pack(model, "compact"), path)
        paths.append(path)
    return paths


def variant_of(key: str, path: Path, accuracy: float, size: int | None = None) -> Variant:
    drop = 0.95 - accuracy
    size = size or path.stat().st_size
    report = Report(
        size_bytes=size,
        source_bytes=10**6,
        rate=10**6 / size,
        entropy=1.0,
        sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
        accuracy=Accuracy("accuracy", accuracy, 0.95, drop, Interval(drop, drop), ROWS),
    )
    recipe = Recipe((Step("prune", {"key": key}),))
    return Variant(key, recipe, report, source="models:/lenet/1")


def job(uri: str, name: str, models: list[Path], patience: float = PATIENCE) -> None:
    """Do the whole way once: search, register, promote. The first trial is the smaller one."""
    tracker = Tracker(f"search {name}", uri, patience=patience)
    variants = [
        variant_of(f"{name}-small", models[0], 0.944),
        variant_of(f"{name}-exact", models[1], 0.95),
    ]
    found = tracker.finished_trials([variant.key for variant in variants])
    done = []
    if len(found) < len(variants):
        tracker.search_started(SearchInfo(name, "models:/lenet/1", "12", 10**6, "manual"))
    for number, (variant, path) in enumerate(zip(variants, models, strict=True)):
        trial = found.get(variant.key)
        if trial is None:
            tracker.trial_started(number, variant.recipe, variant.key)
            trial = Trial(number, variant.key, variant.recipe, "complete", 0.1, variant, str(path))
            trial = tracker.trial_finished(trial)
        done.append(trial)
    if len(found) < len(variants):
        tracker.search_finished(done, "FINISHED")
    made = [trial.variant for trial in done if trial.variant is not None]
    register_variants(tracker.client, name, made, targets=TARGETS, patience=patience)
    promote(tracker.client, name, TARGETS, patience=patience)


def check(uri: str, name: str) -> None:
    """Raise :class:`BrokenError` unless the job has left exactly what it must."""
    client = MlflowClient(uri)
    versions = {
        one.tags["compress.key"]: int(one.version)
        for one in client.search_model_versions(f"name = '{name}'")
    }
    count = len(client.search_model_versions(f"name = '{name}'"))
    if count != 2 or set(versions) != {f"{name}-small", f"{name}-exact"}:
        raise BrokenError(f"{count} versions for 2 variants: {versions}")
    aliases = {k: int(v) for k, v in client.get_registered_model(name).aliases.items()}
    if {k: aliases.get(k) for k in ("small", "exact")} != {
        "small": versions[f"{name}-small"],
        "exact": versions[f"{name}-exact"],
    }:
        raise BrokenError(f"aliases {aliases}, versions {versions}")
    for target in TARGETS:
        known = DecisionLog(client, name).read(target.name)
        if not any(d.version == aliases[target.name] and d.status == "FINISHED" for d in known):
            raise BrokenError(f"no finished decision for {target.name}: {known}")
    experiment = client.get_experiment_by_name(f"search {name}").experiment_id
    open_runs = client.search_runs([experiment], "attributes.status = 'RUNNING'")
    if open_runs:
        raise BrokenError(f"left running: {[run.info.run_name for run in open_runs]}")
    for model in client.search_logged_models([experiment]):
        if str(model.status) != "READY":
            raise BrokenError(f"logged model {model.name} is {model.status}")


def in_process(work: Callable[[], object], seconds: float = 120.0) -> int:
    """Run ``work`` in a forked process; return its exit code, negative for a signal."""
    sys.stdout.flush()
    process = os.fork()
    if process == 0:
        try:
            work()
            os._exit(0)
        except UnreachableError:
            os._exit(5)
        except BaseException:  # noqa: BLE001 - the exit code tells the parent
            traceback.print_exc()
            os._exit(1)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        done, status = os.waitpid(process, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    os.kill(process, signal.SIGKILL)
    os.waitpid(process, 0)
    raise BrokenError("hangs")


def told(items: list, what: str) -> Iterator:
    """Go through the items; say on stderr how far it is, at every twentieth."""
    for number, item in enumerate(items, start=1):
        yield item
        if number % 20 == 0 or number == len(items):
            print(f"{what}: {number} of {len(items)}", file=sys.stderr, flush=True)


def must(code: int, wanted: int, what: str) -> None:
    if code != wanted:
        raise BrokenError(f"{what} ended with {code}, not {wanted}")


# --- kill -9 at every call -------------------------------------------------------------------


def count_calls(at: int, when: str, report: Path | None = None) -> None:
    """Make this process kill itself before or after its call number ``at`` of MlflowClient."""
    seen = [0]

    def wrap(function: Callable[..., object]) -> Callable[..., object]:
        def call(*args: object, **kwargs: object) -> object:
            seen[0] += 1
            number = seen[0]
            if report is not None:
                report.write_text(str(number))
            if number == at and when == "before":
                os.kill(os.getpid(), signal.SIGKILL)
            result = function(*args, **kwargs)
            if number == at and when == "after":
                os.kill(os.getpid(), signal.SIGKILL)
            return result

        return call

    for name, value in list(vars(MlflowClient).items()):
        if callable(value) and not name.startswith("_"):
            setattr(MlflowClient, name, wrap(value))


def kills(store: Callable[[], str], models: list[Path], most: int) -> int:
    """Kill a job before and after each of its calls; return how often."""
    report = models[0].parent / "calls"

    def counting() -> None:
        count_calls(0, "never", report)
        job(uri, "count", models)

    uri = store()
    must(in_process(counting), 0, "a job that nothing is done to")
    total = int(report.read_text())
    points = [(number, when) for number in range(1, total + 1) for when in ("before", "after")]
    chosen = sample(points, most)
    for number, when in told(chosen, "kills"):
        name = f"kill-{number}-{when}"
        uri = store()

        def killed(
            number: int = number, when: str = when, name: str = name, uri: str = uri
        ) -> None:
            count_calls(number, when)
            job(uri, name, models)

        must(in_process(killed), -signal.SIGKILL, name)
        must(in_process(lambda n=name, u=uri: job(u, n, models)), 0, f"the job after {name}")
        must(in_process(lambda n=name, u=uri: check(u, n)), 0, f"the check after {name}")
    return len(chosen)


def sample(items: list, most: int) -> list:
    """Return at most ``most`` of the items, evenly spread, the first and last among them."""
    if len(items) <= most:
        return items
    return [items[round(i * (len(items) - 1) / (most - 1))] for i in range(most)]


# --- a server that answers 500, hangs, or drops the connection --------------------------------


class Proxy(BaseHTTPRequestHandler):
    """Hands requests on to the server, but for the one that the fault is set for."""

    protocol_version = "HTTP/1.1"
    # Answers in one packet: a body would else wait 40 ms for its head to be acknowledged.
    wbufsize = -1
    disable_nagle_algorithm = True
    upstream = ""
    lock = threading.Lock()
    fault = ""
    at = 0
    seen = 0
    until_end = False

    def log_message(self, *args: object) -> None:
        pass

    def _any(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        kind = type(self)
        if self.path == "/__fault":
            with kind.lock:
                setting = json.loads(body)
                kind.fault, kind.at = setting["fault"], setting["at"]
                kind.until_end, seen, kind.seen = setting["until_end"], kind.seen, 0
            self._answer(200, str(seen).encode())
            return
        with kind.lock:
            kind.seen += 1
            hit = kind.seen == kind.at or (kind.until_end and kind.seen > kind.at)
            fault = kind.fault if hit else ""
        if fault == "500":
            self._answer(500, b"the fault that was asked for")
        elif fault == "timeout":
            time.sleep(2.5)
            self.close_connection = True
        elif fault == "drop":
            self._drop()
        else:
            status, answer = self._hand_on(body)
            if fault == "lost":
                self._drop()
            else:
                self._answer(status, answer)

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _any  # noqa: N815

    def _drop(self) -> None:
        self.close_connection = True
        self.connection.shutdown(socket.SHUT_RDWR)

    def _answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _hand_on(self, body: bytes) -> tuple[int, bytes]:
        keep = {k: v for k, v in self.headers.items() if k.lower() not in ("host", "connection")}
        request = urllib.request.Request(
            self.upstream + self.path, data=body or None, headers=keep, method=self.command
        )
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                return answer.status, answer.read()
        except urllib.error.HTTPError as error:
            return error.code, error.read()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def server(folder: Path, store: str) -> Iterator[str]:
    """Run ``mlflow server`` on a store."""
    port = free_port()
    command = [
        *(sys.executable, "-m", "mlflow", "server", "--backend-store-uri", store),
        *("--artifacts-destination", str(folder / "artifacts")),
        *("--host", "127.0.0.1", "--port", str(port), "--workers", "2"),
    ]
    # Its runner of background jobs is half a dozen further processes, which nothing here needs.
    environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    log = (folder / "server.log").open("w")
    process = subprocess.Popen(
        command, stdout=log, stderr=log, env=environment, start_new_session=True
    )
    uri = f"http://127.0.0.1:{port}"
    try:
        for _ in range(1800):
            try:
                with urllib.request.urlopen(f"{uri}/health", timeout=1):
                    break
            except OSError:
                time.sleep(0.1)
        else:
            raise BrokenError(f"the server does not start: {(folder / 'server.log').read_text()}")
        yield uri
    finally:
        os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] = "60"
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        log.close()


@contextmanager
def postgres(folder: Path) -> Iterator[str]:
    """Run PostgreSQL on a cluster of its own in a temporary folder; yield its URI."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    if not found:
        raise BrokenError("no PostgreSQL in /usr/lib/postgresql: apt-get install postgresql")
    # It refuses to run as root.
    user = ["runuser", "-u", "postgres", "--"] if os.geteuid() == 0 else []
    home, port = Path(tempfile.mkdtemp(prefix="pg")), free_port()
    if user:
        shutil.chown(home, "postgres")
    data, ctl = home / "data", str(found[-1] / "pg_ctl")
    options = f"-h 127.0.0.1 -p {port} -k {home} -F"

    def run(*command: str) -> None:
        with (folder / "postgres.log").open("a") as log:
            subprocess.run([*user, *command], check=True, cwd=home, stdout=log, stderr=log)

    run(str(found[-1] / "initdb"), "-A", "trust", "-U", "mlflow", "-D", str(data))
    run(ctl, "-D", str(data), "-w", "-o", options, "-l", str(home / "log"), "start")
    try:
        # SQLAlchemy takes psycopg 3 when no driver is named; MLflow is used with psycopg2.
        yield f"postgresql+psycopg2://mlflow@127.0.0.1:{port}/postgres"
    finally:
        run(ctl, "-D", str(data), "-m", "immediate", "stop")
        shutil.rmtree(home)


@contextmanager
def proxy(upstream: str) -> Iterator[str]:
    """Run the fault proxy in a process of its own."""
    port = free_port()
    Proxy.upstream = upstream
    process = os.fork()
    if process == 0:
        ThreadingHTTPServer(("127.0.0.1", port), Proxy).serve_forever()
    uri = f"http://127.0.0.1:{port}"
    try:
        for _ in range(100):
            try:
                set_fault(uri, "", 0)
                break
            except OSError:
                time.sleep(0.05)
        yield uri
    finally:
        os.kill(process, signal.SIGKILL)
        os.waitpid(process, 0)


def set_fault(uri: str, fault: str, at: int, until_end: bool = False) -> int:
    """Set the next fault; return how many requests there were since the last time."""
    body = json.dumps({"fault": fault, "at": at, "until_end": until_end}).encode()
    request = urllib.request.Request(f"{uri}/__fault", data=body, method="POST")
    with urllib.request.urlopen(request, timeout=10) as answer:
        return int(answer.read())


def http_faults(direct: str, models: list[Path], most: int) -> int:
    """Let each request of a job fail in each way; return how often one did."""
    with proxy(direct) as uri:
        must(in_process(lambda: job(uri, "faultless", models)), 0, "a job that nothing is done to")
        total = set_fault(uri, "", 0)
        points = [(n, fault) for n in range(1, total + 1) for fault in FAULTS]
        chosen = sample(points, most)
        os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] = "2"
        for number, fault in told(chosen, "faults"):
            name = f"fault-{number}-{fault}"
            set_fault(uri, fault, number)
            must(in_process(lambda n=name: job(uri, n, models)), 0, name)
            set_fault(uri, "", 0)
            must(in_process(lambda n=name: check(uri, n)), 0, f"the check after {name}")
        dead = sample(list(range(1, total + 1)), max(2, most // 10))
        for number in told(dead, "dead servers"):
            name = f"dead-{number}"
            set_fault(uri, "500", number, until_end=True)
            must(in_process(lambda n=name: job(uri, n, models, 0.5)), 5, f"{name}: a dead server")
            set_fault(uri, "", 0)
            must(in_process(lambda n=name: job(uri, n, models)), 0, f"the job after {name}")
            must(in_process(lambda n=name: check(uri, n)), 0, f"the check after {name}")
        return len(chosen) + len(dead)


# --- many promoters at once ------------------------------------------------------------------


def promoters(uri: str, models: list[Path], count: int, round_: int) -> int:
    """Let ``count`` jobs register a variant each and promote, at once; return ``count``."""
    name = f"race-{round_}"
    start = time.time() + 1.0

    def one(number: int) -> None:
        tracker = Tracker(f"search {name}", uri, patience=PATIENCE)
        client = tracker.client
        run = client.create_run(tracker.experiment_id)
        model = client.create_logged_model(tracker.experiment_id, "v", run.info.run_id)
        client.finalize_logged_model(model.model_id, "READY")
        client.set_terminated(run.info.run_id)
        # The best one for `small` is made by one job and for `exact` by another.
        variant = variant_of(f"{name}-{number}", models[0], 0.942 + number / 1000, 1000 + number)
        variant = replace(variant, model_uri=f"models:/{model.model_id}", run_id=run.info.run_id)
        time.sleep(max(0.0, start - time.time()))
        register_variants(client, name, [variant], targets=TARGETS)
        promote(client, name, TARGETS)

    threads = []
    codes: dict[int, int] = {}
    for number in range(count):
        process = os.fork()
        if process == 0:
            try:
                one(number)
                os._exit(0)
            except BaseException:  # noqa: BLE001 - the exit code tells the parent
                traceback.print_exc()
                os._exit(1)
        threads.append((number, process))
    for number, process in threads:
        codes[number] = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    if any(codes.values()):
        raise BrokenError(f"promoters ended with {codes}")
    must(in_process(lambda: check_race(uri, name, count)), 0, f"the check after {name}")
    return count


def check_race(uri: str, name: str, count: int) -> None:
    client = MlflowClient(uri)
    versions = {
        one.tags["compress.key"]: int(one.version)
        for one in client.search_model_versions(f"name = '{name}'")
    }
    if len(versions) != count:
        raise BrokenError(f"{len(versions)} versions for {count} variants")
    aliases = {k: int(v) for k, v in client.get_registered_model(name).aliases.items()}
    best = {"small": versions[f"{name}-0"], "exact": versions[f"{name}-{count - 1}"]}
    if {k: aliases[k] for k in best} != best:
        raise BrokenError(f"aliases {aliases}, best {best}")
    for target in TARGETS:
        known = DecisionLog(client, name).read(target.name)
        if any(d.status == "RUNNING" for d in known):
            raise BrokenError(f"open decisions: {[d for d in known if d.status == 'RUNNING']}")
        if not any(d.version == best[target.name] and d.status == "FINISHED" for d in known):
            raise BrokenError(f"lost: no finished decision for {target.name}@{best[target.name]}")


@dataclass
class Counts:
    promoters: int = 0
    kills: int = 0
    faults: int = 0


def behind_a_server(
    kind: str, uri: str, models: list[Path], options: argparse.Namespace, counts: Counts
) -> None:
    """Race promoters over REST, then let requests fail."""
    for number in range(options.rounds):
        counts.promoters += promoters(uri, models, options.promoters, number)
    print(f"promoters, a server on {kind} too: {counts.promoters}", flush=True)
    if options.faults:
        counts.faults += http_faults(uri, models, options.faults)
        print(f"faults, a server on {kind} too: {counts.faults}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=10**6, help="at most so many kills")
    parser.add_argument("--faults", type=int, default=10**6, help="at most so many HTTP faults")
    parser.add_argument("--promoters", type=int, default=8, help="promoters at once")
    parser.add_argument("--rounds", type=int, default=5, help="rounds of promoters per store")
    parser.add_argument("--postgres", action="store_true", help="a server on PostgreSQL too")
    options = parser.parse_args()
    counts = Counts()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.chdir(folder)
        models = write_models(folder)
        empty = folder / "empty.db"
        in_process(lambda: MlflowClient(f"sqlite:///{empty}").search_experiments())
        made = [0]

        def fresh() -> str:
            made[0] += 1
            home = folder / f"store{made[0]}"
            home.mkdir()
            shutil.copy(empty, home / "mlflow.db")
            return f"sqlite:///{home}/mlflow.db"

        # Once here, so that no fork has to import and map everything for itself.
        job(fresh(), "warm-up", models)
        if options.kills:
            counts.kills = kills(fresh, models, options.kills)
            print(f"kills: {counts.kills}", flush=True)
        direct = fresh()
        for number in range(options.rounds):
            counts.promoters += promoters(direct, models, options.promoters, number)
        print(f"promoters on sqlite: {counts.promoters}", flush=True)
        if options.faults:
            with server(folder, fresh()) as uri:
                behind_a_server("sqlite", uri, models, options, counts)
        if options.postgres:
            with postgres(folder) as store, server(folder, store) as uri:
                behind_a_server("PostgreSQL", uri, models, options, counts)
    print(
        f"promoters={counts.promoters} kills={counts.kills} faults={counts.faults} "
        "lost=0 duplicates=0"
    )


if __name__ == "__main__":
    main()
