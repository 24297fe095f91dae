"""The job that ``faults.py`` does things to, and what it must have left in the end.

A job is a search of two trials, which it registers and promotes for two targets. Afterwards there
must be exactly one version per variant, each alias on the right one, a finished decision for it,
no run left open, and no logged model that is not ready. Every job runs in a process of its own,
forked from one that does nothing but fork: nothing of a killed job can leak into the next.
"""

import hashlib
import logging
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

os.environ.update(
    OMP_NUM_THREADS="1",
    MLFLOW_HTTP_REQUEST_MAX_RETRIES="0",
    MLFLOW_HTTP_REQUEST_TIMEOUT="60",
    MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR="false",
    MLFLOW_DISABLE_TELEMETRY="true",
)

import numpy as np
from mlflow import MlflowClient
from onnx import TensorProto, helper, numpy_helper

from mlflow_compress import packed
from mlflow_compress.errors import UnreachableError
from mlflow_compress.recording.search import Tracker
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

logging.getLogger("mlflow").setLevel(logging.CRITICAL)
ROWS = DatasetRef("digits", "ab" * 32, 1000)
SMALL = Target(
    "small", Limits(size_bytes=999_999), AccuracyLimits(max_drop=0.01), min_improvement=0
)
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


def sample(items: list, most: int) -> list:
    """Return at most ``most`` of the items, evenly spread, the first and last among them."""
    if len(items) <= most:
        return items
    return [items[round(i * (len(items) - 1) / (most - 1))] for i in range(most)]
