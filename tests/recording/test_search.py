import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import mlflow
import numpy as np
import pytest
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import TEMPORARILY_UNAVAILABLE

import mlflow_compress
from mlflow_compress import packed
from mlflow_compress.errors import UnreachableError
from mlflow_compress.mlflow_plugin import Tracker
from mlflow_compress.records import DatasetRef, Recipe, StageReport, Step, Trial
from mlflow_compress.search.observer import SearchInfo
from mlflow_compress.tracking.patience import patiently
from mlflow_compress.tracking.runs import RunWriter

CALIBRATION = DatasetRef("digits-train", "ef" * 32, 200)
EVALUATION = DatasetRef("digits", "ab" * 32, 1000)
INFO = SearchInfo(
    name="lenet-edge",
    source="models:/lenet/1",
    source_digest="12" * 32,
    source_bytes=800,
    strategy="grid",
    planned=2,
    datasets={"calibration": CALIBRATION, "evaluation": EVALUATION},
    config={"source": "models:/lenet@champion"},
)
NUMBERS = {
    "rate",
    "size_bytes",
    "accuracy",
    "accuracy_drop",
    "accuracy_drop_high",
    "latency_p50_ms",
    "latency_ratio",
    "entropy_bits",
}


@pytest.fixture
def tracker(store_uri):
    return Tracker("search", store_uri)


@pytest.fixture
def make_trial(make_variant, packed_file):
    def make(number=0, key="key0", recipe=None):
        recipe = recipe or Recipe(
            (Step("prune", {"sparsity": 0.9}), Step("share", {"clusters": 16}))
        )
        path = packed_file(name=f"{key}.onnx")
        stages = (
            StageReport("source", 800, 1.0, 0.0, 6.5),
            StageReport("pruned", 400, 2.0, 0.9, 1.1),
        )
        variant = make_variant(key, size=path.stat().st_size, stages=stages)
        variant = replace(variant, recipe=recipe)
        return Trial(number, key, recipe, "complete", 0.5, variant, str(path))

    return make


def search(tracker, trials, status="FINISHED"):
    tracker.search_started(INFO)
    done = []
    for trial in trials:
        tracker.trial_started(trial.number, trial.recipe, trial.key)
        done.append(tracker.trial_finished(trial))
    tracker.search_finished(done, status)
    return done


def runs(tracker, kind):
    query = f"tags.`compress.kind` = '{kind}'"
    return tracker.client.search_runs([tracker.experiment_id], query)


def models(tracker):
    return tracker.client.search_logged_models([tracker.experiment_id])


def files(tracker, run_id, path=None):
    return {item.path for item in tracker.client.list_artifacts(run_id, path)}


def test_a_search_is_a_parent_with_a_nested_run_per_trial(tracker, make_trial):
    search(tracker, [make_trial(0, "a"), make_trial(1, "b")])
    (parent,) = runs(tracker, "search")
    children = runs(tracker, "trial")
    assert {child.data.tags["mlflow.parentRunId"] for child in children} == {parent.info.run_id}
    assert {run.info.status for run in [parent, *children]} == {"FINISHED"}
    rate = 1_000_000 / make_trial().variant.report.size_bytes
    assert {c.info.run_name for c in children} == {f"prune 0.9 · share 16 · {rate:.1f}x"}
    assert children[0].data.params == {
        "recipe": "prune 0.9 · share 16",
        "profile": "compact",
        "prune.sparsity": "0.9",
        "share.clusters": "16",
    }


def test_one_model_per_trial_with_the_numbers_linked_to_it(tracker, make_trial):
    (trial,) = search(tracker, [make_trial()])
    (model,) = models(tracker)
    assert trial.variant.model_uri == f"models:/{model.model_id}"
    assert str(model.status) == "READY"
    assert model.source_run_id == trial.variant.run_id
    assert model.name == "prune 0,9 · share 16"
    found = {metric.key: metric for metric in model.metrics}
    assert set(found) >= NUMBERS
    assert found["accuracy"].value == 0.95
    assert (found["accuracy"].dataset_name, found["accuracy"].dataset_digest) == (
        "digits",
        EVALUATION.digest[:36],
    )
    assert model.params["prune.sparsity"] == "0.9"
    assert set(tracker.client.get_run(trial.variant.run_id).data.metrics) >= NUMBERS
    outputs = tracker.client.get_run(trial.variant.run_id).outputs.model_outputs
    assert [output.model_id for output in outputs] == [model.model_id]


def test_the_logged_model_says_what_the_packed_file_says(tracker, make_trial, images):
    trial = make_trial()
    (finished,) = search(tracker, [trial])
    assert mlflow.active_run() is None
    mlflow.set_tracking_uri(tracker.client.tracking_uri)
    loaded = mlflow.pyfunc.load_model(finished.variant.model_uri)
    want = packed.load(trial.path).run(None, {"image": images})[0]
    np.testing.assert_array_equal(loaded.predict(images), want)
    assert loaded.metadata.run_id == finished.variant.run_id
    assert f"models:/{loaded.metadata.model_id}" == finished.variant.model_uri


def test_nothing_global_is_changed(tracker, make_trial):
    search(tracker, [make_trial()])
    assert mlflow.active_run() is None
    assert not mlflow.is_tracking_uri_set()


def test_the_rows_are_logged_under_our_own_digest(tracker, make_trial):
    search(tracker, [make_trial()])
    (parent,) = runs(tracker, "search")
    found = {
        next(tag.value for tag in item.tags if tag.key == "mlflow.data.context"): item
        for item in parent.inputs.dataset_inputs
    }
    assert set(found) == {"calibration", "evaluation"}
    evaluation = found["evaluation"]
    assert evaluation.dataset.name == "digits"
    assert evaluation.dataset.digest == EVALUATION.digest[:36]
    assert json.loads(evaluation.dataset.profile) == {"num_rows": 1000}
    tags = {tag.key: tag.value for tag in evaluation.tags}
    assert tags["compress.sha256"] == EVALUATION.digest


def test_what_a_person_finds_on_the_parent(tracker, make_trial, tmp_path):
    search(tracker, [make_trial(0, "a"), make_trial(1, "b")])
    (parent,) = runs(tracker, "search")
    note = parent.data.tags["mlflow.note.content"]
    assert note.startswith("**lenet-edge**: `models:/lenet/1` compressed, strategy grid, 2 trials")
    assert "| prune 0.9 · share 16 |" in note
    assert files(tracker, parent.info.run_id) == {"config.json", "layers", "pareto", "trials"}
    path = tracker.client.download_artifacts(
        parent.info.run_id, "pareto/pareto.html", str(tmp_path)
    )
    html = Path(path).read_text()
    assert "<html" in html
    assert 'src="https://' not in html
    table = tracker.client.load_table(
        tracker.experiment_id, "trials/trials.json", run_ids=[parent.info.run_id]
    )
    assert list(table["recipe"]) == ["prune 0.9 · share 16"] * 2


def test_what_a_person_finds_on_a_trial(tracker, make_trial):
    (trial,) = search(tracker, [make_trial()])
    run = tracker.client.get_run(trial.variant.run_id)
    assert "| pruned | 400 | 2.00x | 90.0 % | 1.100 |" in run.data.tags["mlflow.note.content"]
    assert files(tracker, run.info.run_id) == {"layers", "report.json"}
    assert json.loads(run.data.tags["mlflow.loggedArtifacts"]) == [
        {"path": "layers/layers.json", "type": "table"}
    ]


def test_a_link_whose_answer_was_lost_is_made_once(tracker, make_trial, monkeypatch):
    link, answers = tracker.client.log_outputs, iter([False])

    def lose(run_id, outputs):
        link(run_id, outputs)
        if not next(answers, True):
            raise MlflowException("the answer was lost", error_code=TEMPORARILY_UNAVAILABLE)

    monkeypatch.setattr(tracker.client, "log_outputs", lose)
    search(tracker, [make_trial()])
    (run,) = runs(tracker, "trial")
    assert [one.model_id for one in run.outputs.model_outputs] == [models(tracker)[0].model_id]
    assert run.info.status == "FINISHED"


def test_a_finished_trial_is_found_again(tracker, make_trial, store_uri):
    (trial,) = search(tracker, [make_trial(3, "a")])
    found = Tracker("search", store_uri).finished_trials(["a", "b"])
    assert found == {"a": replace(trial, state="reused", path="")}
    assert Tracker("another", store_uri).finished_trials(["a"]) == {}


def test_a_trial_whose_model_is_gone_is_not_found(tracker, make_trial):
    (trial,) = search(tracker, [make_trial(0, "a")])
    tracker.client.delete_logged_model(trial.variant.model_uri.rpartition("/")[2])
    assert tracker.finished_trials(["a"]) == {}


def test_a_trial_whose_files_are_gone_is_not_found(tracker, make_trial):
    (trial,) = search(tracker, [make_trial(0, "a")])
    (model,) = models(tracker)
    (Path(model.artifact_location) / "MLmodel").unlink()
    assert tracker.finished_trials(["a"]) == {}
    run = tracker.client.get_run(trial.variant.run_id)
    (Path(run.info.artifact_uri) / "report.json").write_text("{")
    assert tracker.finished_trials(["a"]) == {}


def test_a_failed_trial_says_why_and_is_not_found_again(tracker):
    tracker.search_started(INFO)
    tracker.trial_started(0, Recipe(), "a")
    trial = Trial(0, "a", Recipe(), "failed", error="prune: nothing to prune")
    assert tracker.trial_finished(trial) == trial
    tracker.search_finished([trial], "FINISHED")
    (run,) = runs(tracker, "trial")
    assert run.info.status == "FAILED"
    assert run.data.tags["compress.error"] == "prune: nothing to prune"
    assert tracker.finished_trials(["a"]) == {}
    assert models(tracker) == []
    assert (
        "failed: lossless: prune: nothing"
        in runs(tracker, "search")[0].data.tags["mlflow.note.content"]
    )


@pytest.mark.parametrize(("status", "trial_status"), [("KILLED", "KILLED"), ("FAILED", "FAILED")])
def test_a_search_that_breaks_off_leaves_nothing_open(tracker, status, trial_status):
    tracker.search_started(INFO)
    tracker.trial_started(0, Recipe(), "a")
    tracker.search_finished([], status)
    assert runs(tracker, "search")[0].info.status == status
    assert runs(tracker, "trial")[0].info.status == trial_status


def test_a_packed_file_that_cannot_be_read_leaves_no_model(tracker, make_trial):
    trial = make_trial()
    Path(trial.path).write_bytes(b"not a model")
    tracker.search_started(INFO)
    tracker.trial_started(0, trial.recipe, trial.key)
    with pytest.raises(Exception, match=r"."):
        tracker.trial_finished(trial)
    tracker.search_finished([], "FAILED")
    assert models(tracker) == []
    assert {run.info.status for k in ("search", "trial") for run in runs(tracker, k)} == {"FAILED"}


def test_ctrl_c_while_a_model_is_uploaded_leaves_no_model(tracker, make_trial, monkeypatch):
    trial = make_trial()
    tracker.search_started(INFO)
    tracker.trial_started(0, trial.recipe, trial.key)

    def interrupt(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(tracker.client, "log_model_artifacts", interrupt)
    with pytest.raises(KeyboardInterrupt):
        tracker.trial_finished(trial)
    tracker.search_finished([], "KILLED")
    assert models(tracker) == []
    assert {run.info.status for k in ("search", "trial") for run in runs(tracker, k)} == {"KILLED"}


def test_what_a_killed_job_left_open_is_closed_by_the_next(tracker, store_uri, tmp_path):
    script = (
        "import os, signal, sys\n"
        "from mlflow_compress.mlflow_plugin import Tracker\n"
        "from mlflow_compress.records import Recipe\n"
        "from mlflow_compress.search.observer import SearchInfo\n"
        "tracker = Tracker('search', sys.argv[1])\n"
        "tracker.search_started(SearchInfo('x', 'y', 'z', 1, 'grid'))\n"
        "tracker.trial_started(0, Recipe(), 'a')\n"
        "tracker.client.create_logged_model(\n"
        "    tracker.experiment_id, 'half', tracker._open[0])\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    home = str(Path(mlflow_compress.__file__).parents[1])
    done = subprocess.run(
        [sys.executable, "-c", script, store_uri],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": home},
        check=False,
    )
    assert done.returncode == -signal.SIGKILL
    assert [run.info.status for k in ("search", "trial") for run in runs(tracker, k)] == [
        "RUNNING",
        "RUNNING",
    ]
    assert len(models(tracker)) == 1
    Tracker("search", store_uri)
    statuses = [run.info.status for k in ("search", "trial") for run in runs(tracker, k)]
    assert statuses == ["KILLED", "KILLED"]
    assert models(tracker) == []


def test_a_live_search_beside_this_one_is_left_alone(store_uri):
    other = Tracker("search", store_uri)
    other.search_started(INFO)
    tracker = Tracker("search", store_uri)
    tracker.search_started(INFO)
    assert [run.info.status for run in runs(tracker, "search")] == ["RUNNING", "RUNNING"]
    other.search_finished([], "FINISHED")
    tracker.search_finished([], "FINISHED")


def test_a_store_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UnreachableError):
        Tracker("search", f"sqlite:///{tmp_path}/file/mlflow.db")


def test_numbers_that_are_not_finite_are_left_out(tracker, make_trial):
    trial = make_trial()
    report = replace(trial.variant.report, entropy=float("nan"))
    trial = replace(trial, variant=replace(trial.variant, report=report))
    (finished,) = search(tracker, [trial])
    assert "entropy_bits" not in tracker.client.get_run(finished.variant.run_id).data.metrics


def test_a_run_whose_making_was_broken_off_is_not_left_running(client, monkeypatch):
    made = client.create_run

    def breaking(*args, **options):
        made(*args, **options)
        raise KeyboardInterrupt

    monkeypatch.setattr(client, "create_run", breaking)
    runs = RunWriter(client, client.create_experiment("e"), {})
    with pytest.raises(KeyboardInterrupt):
        runs.create_run("r", {})
    (left,) = client.search_runs([runs.experiment_id])
    assert left.info.status == "KILLED"


def test_a_server_that_was_waited_for_in_vain_is_not_waited_for_as_long_again(client, monkeypatch):
    waits = []

    def waiting(what, call, seconds):
        waits.append(seconds)
        return patiently(what, call, 0)

    monkeypatch.setattr("mlflow_compress.tracking.runs.patiently", waiting)
    runs = RunWriter(client, client.create_experiment("e"), {}, patience=60)

    def down():
        raise ConnectionError("refused")

    for _ in range(2):
        with pytest.raises(UnreachableError):
            runs.do("end the run", down)
    runs.do("end the run", lambda: None)
    runs.do("end the run", lambda: None)
    assert waits == [60, 5, 5, 60]


def test_what_a_search_ended_of_is_said_and_not_what_ending_it_met(tracker, monkeypatch):
    tracker.search_started(INFO)

    def refused(what):
        def call(*_, **__):
            raise UnreachableError(what)

        return call

    monkeypatch.setattr(tracker, "_summarise", refused("the summary"))
    monkeypatch.setattr(RunWriter, "close", refused("the end"))
    with pytest.raises(UnreachableError, match="the summary"):
        tracker.search_finished([], "FINISHED")
