"""The demo's whole way on a smaller budget: as a newcomer runs it, twice."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import mlflow
import numpy as np
import pytest
from mlflow import MlflowClient

from mlflow_compress import packed
from mlflow_compress.tracking.models import using_tracking_uri

EXAMPLE = Path(__file__).parents[1] / "examples/lenet_mnist"
SMALL = [
    [{"prune": {"sparsity": 0.7}}, {"share": {"clusters": 8}}],
    [{"prune": {"sparsity": 0.7}}, {"share": {"clusters": 8}}, {"pack": {"profile": "portable"}}],
    ["quantize"],
]
TARGETS = {"raspberry-pi-4", "browser", "server-cpu"}
BY_SIZE = [
    "raspberry-pi-4",
    {"extends": "browser", "name": "browser", "limits": {"size": "60kB"}},
    {"extends": "server-cpu", "name": "server-cpu", "objective": "size"},
]
"""The example's targets, without what depends on how fast int8 is on the machine of the tests."""


def command(folder, *args):
    """Run a command in the example's folder as a person would; return what it printed."""
    done = subprocess.run(
        [str(part) for part in args],
        cwd=folder,
        capture_output=True,
        text=True,
        env={**os.environ, "COLUMNS": "200"},
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done


def compress(folder, *more):
    script = Path(sys.executable).parent / "mlflow-compress"
    small = ["--set", f"recipes={json.dumps(SMALL)}", "--set", "search.latency_rounds=5"]
    small += ["--set", f"targets={json.dumps(BY_SIZE)}"]
    return command(folder, script, "run", "compress.yaml", *small, *more)


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """The example's folder after one whole run, a client of its store, and what was printed."""
    folder = tmp_path_factory.mktemp("demo")
    for name in ("prepare.py", "compress.yaml", "compress-finetune.yaml"):
        shutil.copy(EXAMPLE / name, folder)
    command(folder, sys.executable, "prepare.py")
    done = compress(folder)
    client = MlflowClient(f"sqlite:///{folder / 'out/mlflow.db'}")
    return folder, client, done


def snapshot(client):
    """Everything in the store that a second run must not change."""
    experiments = [one.experiment_id for one in client.search_experiments()]
    runs = client.search_runs(experiments)
    models = client.search_logged_models(experiment_ids=experiments)
    versions = client.search_model_versions("name = 'lenet-edge'")
    return (
        sorted((run.info.run_id, run.info.status) for run in runs),
        sorted(model.model_id for model in models),
        sorted((int(v.version), tuple(sorted(v.tags.items()))) for v in versions),
        dict(client.get_registered_model("lenet-edge").aliases),
    )


def test_every_target_has_a_version_that_meets_its_limits(demo):
    _, client, done = demo
    aliases = client.get_registered_model("lenet-edge").aliases
    assert set(aliases) >= TARGETS
    assert done.stdout.count(": promoted: ") == 3
    browser = client.get_model_version_by_alias("lenet-edge", "browser")
    assert int(browser.tags["compress.size_bytes"]) <= 60_000
    assert "portable" in browser.tags["compress.recipe"]


def test_versions_carry_their_numbers_in_tags(demo):
    _, client, _ = demo
    versions = client.search_model_versions("name = 'lenet-edge'")
    names = ("rate", "accuracy", "accuracy_drop", "size_bytes", "recipe", "source")
    for version in versions:
        assert {f"compress.{name}" for name in names} <= set(version.tags)
        assert version.tags["compress.source"] == "models:/lenet/1"
    best = max(versions, key=lambda version: float(version.tags["compress.rate"]))
    assert float(best.tags["compress.rate"]) >= 10
    assert float(best.tags["compress.accuracy_drop"]) <= 0.01


def test_the_rate_is_weights_over_the_whole_file(demo):
    folder, client, _ = demo
    for version in client.search_model_versions("name = 'lenet-edge'"):
        (file,) = (folder / "out").rglob(f"{version.tags['compress.model_uri'][8:]}/**/model.onnx")
        assert int(version.tags["compress.size_bytes"]) == file.stat().st_size
        rate = 4 * 266_610 / file.stat().st_size
        assert float(version.tags["compress.rate"]) == pytest.approx(rate, rel=1e-4)


def test_a_search_is_a_parent_with_nested_trials_tables_and_figure(demo):
    _, client, _ = demo
    experiment = client.get_experiment_by_name("lenet-edge")
    runs = client.search_runs([experiment.experiment_id])
    (parent,) = (run for run in runs if run.data.tags.get("compress.kind") == "search")
    trials = [r for r in runs if r.data.tags.get("mlflow.parentRunId") == parent.info.run_id]
    assert len(trials) == len(SMALL)
    assert {run.info.status for run in runs} == {"FINISHED"}
    kept = {item.path for item in client.list_artifacts(parent.info.run_id, "pareto")}
    assert "pareto/pareto.html" in kept
    assert client.list_artifacts(trials[0].info.run_id, "layers")
    models = client.search_logged_models(experiment_ids=[experiment.experiment_id])
    assert len(models) == len(SMALL)
    for model in models:
        assert {"rate", "accuracy", "latency_p50_ms"} <= {m.key for m in model.metrics}


def test_pyfunc_equals_the_variant_itself(demo):
    folder, client, _ = demo
    rows = np.load(folder / "out/evaluation.npz")["image"][:50]
    with using_tracking_uri(client.tracking_uri):
        for alias in sorted(TARGETS):
            uri = f"models:/lenet-edge@{alias}"
            made = mlflow.pyfunc.load_model(uri).predict(rows)
            (file,) = Path(mlflow.artifacts.download_artifacts(uri)).rglob("model.onnx")
            session = packed.load(file, threads=1)
            (expected,) = session.run(None, {session.get_inputs()[0].name: rows})
            np.testing.assert_array_equal(made, expected)


def test_the_decision_is_written_down(demo):
    _, client, _ = demo
    experiment = client.get_experiment_by_name("lenet-edge")
    query = "tags.`compress.kind` = 'decision' AND tags.`compress.target` = 'browser'"
    (run,) = client.search_runs([experiment.experiment_id], query)
    files = {item.path for item in client.list_artifacts(run.info.run_id)}
    assert {"decision.md", "decision.json"} <= files


def test_a_second_run_changes_nothing(demo):
    folder, client, _ = demo
    before = snapshot(client)
    again = command(folder, sys.executable, "prepare.py")
    assert "already" in again.stdout
    done = compress(folder)
    assert "0 run now, 3 reused, 0 failed" in done.stdout
    assert done.stdout.count(": kept: ") == 3
    assert snapshot(client) == before


def test_the_same_source_under_a_newer_version_keeps_its_variants(demo):
    folder, client, _ = demo
    aliases = snapshot(client)[3]
    source = client.get_model_version_by_alias("lenet", "champion")
    with using_tracking_uri(client.tracking_uri):
        newer = client.create_model_version("lenet", source.source, run_id=source.run_id)
    client.set_registered_model_alias("lenet", "champion", newer.version)
    done = compress(folder)
    assert "models:/lenet/2" in done.stdout
    assert done.stdout.count(": kept: ") == 3
    assert snapshot(client)[3] == aliases


def test_the_example_that_fine_tunes(demo):
    folder, client, _ = demo
    script = Path(sys.executable).parent / "mlflow-compress"
    one = [[{"prune": {"sparsity": 0.95}}, {"entropy_share": {"bits": 2.0}}]]
    few = ["--set", f"recipes={json.dumps(one)}"]
    name = ["--set", "register_as=lenet-tuned"]
    done = command(folder, script, "run", "compress-finetune.yaml", *few, *name)
    assert "1 run now, 0 reused, 0 failed" in done.stdout
    rate = float(client.get_model_version("lenet-tuned", "1").tags["compress.rate"])
    assert rate > 60
