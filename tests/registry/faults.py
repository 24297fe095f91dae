"""Kills, faults and races against real stores; ends with one line of counts.

    python -m tests.registry.faults [--stores S …] [--kills N] [--faults N] [--promoters N]

On each store, all stores at once, each case with a job of its own (``fault_job.py``):

* the job is killed at every call of MLflow's client, before and after it; behind a server at every
  request, before the server sees it and after the server has done it; then it runs again;
* every request is answered with 500, not answered in time, dropped, or done and its answer lost;
  and from every request on the server is dead, until the job runs again;
* many jobs register and promote at the same time;
* hands move and remove aliases, delete versions and edit tags.
"""

import argparse
import json
import os
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

from mlflow_compress.recording.search import Tracker
from mlflow_compress.registry.decisions import DecisionLog
from mlflow_compress.registry.promotion import promote
from mlflow_compress.registry.variants import register_variants
from tests.registry.fault_hands import hands
from tests.registry.fault_job import (
    PATIENCE,
    TARGETS,
    BrokenError,
    MlflowClient,
    check,
    in_process,
    job,
    must,
    sample,
    told,
    variant_of,
    write_models,
)
from tests.registry.fault_servers import postgres, proxy, set_fault
from tests.servers import mlflow_server

Counts = Counter[str]  # how much was done to a store and survived
FAULTS = ("500", "timeout", "drop", "lost")
STORES = {
    "direct": "sqlite",
    "server": "a server on sqlite",
    "postgresql": "a server on PostgreSQL",
}


# --- kill -9 ---------------------------------------------------------------------------------


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
    """Kill a job before and after each of its calls of MLflow's client; return how often."""
    report = models[0].parent / "calls"
    uri = store()

    def counting() -> None:
        count_calls(0, "never", report)
        job(uri, "count", models)

    must(in_process(counting), 0, "a job that nothing is done to")
    total = int(report.read_text())
    points = [(number, when) for number in range(1, total + 1) for when in ("before", "after")]
    chosen = sample(points, most)
    for number, when in told(chosen, "kills on sqlite"):
        name, uri = f"kill-{number}-{when}", store()

        def killed(number: int = number, when: str = when, n: str = name, u: str = uri) -> None:
            count_calls(number, when)
            job(u, n, models)

        must(in_process(killed), -signal.SIGKILL, name)
        again(uri, name, models)
    return len(chosen)


def kills_at_requests(uri: str, models: list[Path], most: int, kind: str) -> int:
    """Kill a job at each of its requests, undone or done; return how often."""
    points = [(n, kill) for n in range(1, requests(uri, models) + 1) for kill in ("kill", "killed")]
    chosen = sample(points, most)
    for number, kill in told(chosen, f"kills behind {kind}"):
        name = f"{kill}-{number}"

        def killed(number: int = number, kill: str = kill, name: str = name) -> None:
            set_fault(uri, kill, number, process=os.getpid())
            job(uri, name, models)

        must(in_process(killed), -signal.SIGKILL, name)
        set_fault(uri, "", 0)
        again(uri, name, models)
    return len(chosen)


def again(uri: str, name: str, models: list[Path]) -> None:
    """Run a job that was broken off once more, and check what it has left."""
    must(in_process(lambda: job(uri, name, models)), 0, f"the job after {name}")
    must(in_process(lambda: check(uri, name)), 0, f"the check after {name}")


# --- a server that answers 500, hangs, or drops the connection --------------------------------


def requests(uri: str, models: list[Path]) -> int:
    """Return how many requests a job makes."""
    name = f"faultless-{time.monotonic_ns()}"
    set_fault(uri, "", 0)
    must(in_process(lambda: job(uri, name, models)), 0, "a job that nothing is done to")
    return set_fault(uri, "", 0)


def http_faults(uri: str, models: list[Path], most: int, kind: str) -> int:
    """Let each request of a job fail in each way; return how often one did."""
    total = requests(uri, models)
    points = [(n, fault) for n in range(1, total + 1) for fault in FAULTS]
    chosen = sample(points, most)
    os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] = "2"
    for number, fault in told(chosen, f"faults, {kind}"):
        name = f"fault-{number}-{fault}"
        set_fault(uri, fault, number)
        must(in_process(lambda n=name: job(uri, n, models)), 0, name)
        set_fault(uri, "", 0)
        must(in_process(lambda n=name: check(uri, n)), 0, f"the check after {name}")
    dead = sample(list(range(1, total + 1)), max(2, most // 10))
    for number in told(dead, f"dead servers, {kind}"):
        name = f"dead-{number}"
        set_fault(uri, "500", number, until_end=True)
        must(in_process(lambda n=name: job(uri, n, models, 0.5)), 5, f"{name}: a dead server")
        set_fault(uri, "", 0)
        again(uri, name, models)
    os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] = "60"
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


# --- the stores ------------------------------------------------------------------------------


def on_sqlite(folder: Path, options: argparse.Namespace) -> Counts:
    """Do it all to jobs that use a database file directly."""
    models, counts, made = write_models(folder), Counts(), 0
    empty = folder / "empty.db"
    in_process(lambda: MlflowClient(f"sqlite:///{empty}").search_experiments())

    def fresh() -> str:
        nonlocal made
        made += 1
        home = folder / f"store{made}"
        home.mkdir()
        shutil.copy(empty, home / "mlflow.db")
        return f"sqlite:///{home}/mlflow.db"

    if options.kills:
        counts["kills"] = kills(fresh, models, options.kills)
    uri = fresh()
    for number in range(options.rounds):
        counts["promoters"] += promoters(uri, models, options.promoters, number)
    counts["hands"] = hands(uri, models)
    return counts


def behind_a_server(folder: Path, store: str, kind: str, options: argparse.Namespace) -> Counts:
    """Do it all to jobs that use a server on a store."""
    models, counts = write_models(folder), Counts()
    with mlflow_server(folder, store, "--workers", "2") as direct, proxy(direct) as uri:
        for number in range(options.rounds):
            counts["promoters"] += promoters(uri, models, options.promoters, number)
        counts["hands"] = hands(uri, models)
        if options.kills:
            counts["kills"] = kills_at_requests(uri, models, options.kills, kind)
        if options.faults:
            counts["faults"] = http_faults(uri, models, options.faults, kind)
    return counts


def on_store(store: str, folder: Path, options: argparse.Namespace) -> Counts:
    """Do it all to one of the stores."""
    if store == "direct":
        return on_sqlite(folder, options)
    if store == "server":
        return behind_a_server(folder, f"sqlite:///{folder}/mlflow.db", STORES[store], options)
    with postgres(folder) as uri:
        return behind_a_server(folder, uri, STORES[store], options)


@contextmanager
def beside(store: str, folder: Path, options: argparse.Namespace) -> Iterator[Callable[[], Counts]]:
    """Do it all to a store in a process of its own; yield what waits for it."""
    home = folder / store
    home.mkdir()
    sys.stdout.flush()
    process = os.fork()
    if process == 0:
        code = 1
        try:
            os.chdir(home)
            counts = on_store(store, home, options)
            (home / "counts.json").write_text(json.dumps(counts))
            code = 0
        except BaseException:  # noqa: BLE001 - the exit code tells the parent
            traceback.print_exc()
        os._exit(code)

    def wait() -> Counts:
        nonlocal process
        status = os.waitpid(process, 0)[1]
        process = 0
        must(os.waitstatus_to_exitcode(status), 0, STORES[store])
        counts = Counts(json.loads((home / "counts.json").read_text()))
        print(f"{STORES[store]}: {line(counts)} hands={counts['hands']}", flush=True)
        return counts

    try:
        yield wait
    finally:
        if process:
            os.kill(process, signal.SIGTERM)
            os.waitpid(process, 0)


def line(counts: Counts) -> str:
    return "promoters={promoters} kills={kills} faults={faults}".format_map(counts)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--stores", nargs="+", choices=STORES, default=["direct", "server"])
    parser.add_argument("--kills", type=int, default=10**6, help="at most so many per store")
    parser.add_argument("--faults", type=int, default=10**6, help="at most so many per store")
    parser.add_argument("--promoters", type=int, default=8, help="promoters at once")
    parser.add_argument("--rounds", type=int, default=5, help="rounds of promoters per store")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    counts = Counts()
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder = Path(name)
        # Once here, so that no fork has to import and map everything for itself.
        warm = folder / "warm"
        warm.mkdir()
        job(f"sqlite:///{warm}/mlflow.db", "warm-up", write_models(warm))
        waits = [stack.enter_context(beside(store, folder, options)) for store in options.stores]
        for wait in waits:
            counts += wait()
    print(f"{line(counts)} lost=0 duplicates=0")


if __name__ == "__main__":
    main()
