"""The job from Python, and what a crash or Ctrl-C leaves behind."""

import os
import signal
import subprocess
import sys
import time

import numpy as np
import onnx
import pytest
from mlflow import MlflowClient

import mlflow_compress
from mlflow_compress.config.compress import absolute_paths, parse_config
from mlflow_compress.errors import ConfigError
from mlflow_compress.jobs import compress as job
from tests.tiny import tiny_model

RECIPES = [[{"share": {"clusters": n}}] for n in (2, 4, 8, 16, 32)]
TARGETS = [{"name": "device", "accuracy": {"max_drop": 0.25}}]


def rows_of(project):
    with np.load(project.folder / "rows.npz") as file:
        return dict(file)


def test_compress_takes_models_and_arrays_in_memory(project):
    outcome = mlflow_compress.compress(
        tiny_model(),
        data=rows_of(project),
        recipes=RECIPES,
        targets=TARGETS,
        search={"latency_rounds": 2},
        tracking_uri=project.config["tracking_uri"],
    )
    assert len(outcome.trials) == 5
    assert outcome.registered_as == "tiny-edge"
    (decision,) = outcome.decisions
    assert decision.outcome == "promoted"
    assert outcome.exit_code == 0
    assert {t.key for t in outcome.front} <= {t.key for t in outcome.trials}
    winner = next(v for v in outcome.registered if v.version == decision.version)
    assert outcome.targets_of(winner) == ["device"]


def test_compress_takes_a_torch_module(project):
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(16, 32), torch.nn.ReLU(), torch.nn.Linear(32, 4))
    outcome = mlflow_compress.compress(
        net,
        data={
            "evaluation": {"features": np.random.default_rng(0).normal(size=(60, 16)).astype("f4")}
        },
        recipe=["share"],
        targets=[{"name": "device", "accuracy": {"min_agreement": 0.8}}],
        search={"latency_rounds": 0},
        register_as="net",
        tracking_uri=project.config["tracking_uri"],
    )
    (trial,) = outcome.trials
    assert trial.variant.report.source_bytes == 4 * (16 * 32 + 32 + 32 * 4 + 4)
    assert trial.variant.report.accuracy is None
    assert trial.variant.report.latency == ()
    assert outcome.decisions[0].outcome == "promoted"


def test_a_model_of_a_fixed_batch_is_timed_by_its_batch(project):
    model = tiny_model()
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = 4
    rows = rows_of(project)
    limits = {"latency_p50": "1s", "memory": "4GB"}
    outcome = mlflow_compress.compress(
        model,
        data={"evaluation": rows, "calibration": rows},
        recipes=[["quantize"], [{"prune": {"sparsity": 0.5}}]],
        targets=[{"name": "device", "accuracy": {"max_drop": 0.25}, "limits": limits}],
        search={"latency_rounds": 2},
        tracking_uri=project.config["tracking_uri"],
    )
    assert [trial.error for trial in outcome.trials] == ["", ""]
    assert {latency.batch for t in outcome.trials for latency in t.variant.report.latency} == {4}
    assert outcome.decisions[0].outcome == "promoted", outcome.decisions


def test_compress_takes_paths_relative_to_the_current_folder(project):
    outcome = mlflow_compress.compress(
        "tiny.onnx", data="rows.npz", tracking_uri=project.config["tracking_uri"],
        recipe=["share"], search={"latency_rounds": 0},
    )  # fmt: skip
    assert outcome.decisions == ()
    assert outcome.trials[0].state == "complete"


def test_without_a_recipe_the_default_ones_are_tried(project):
    outcome = mlflow_compress.compress(
        "tiny.onnx", data="rows.npz", tracking_uri=project.config["tracking_uri"],
        search={"latency_rounds": 0, "trials": 4},
    )  # fmt: skip
    assert len(outcome.trials) == 4
    assert all(trial.state == "complete" for trial in outcome.trials), outcome.trials


@pytest.mark.parametrize("data", [5, {"calibration": "rows.npz"}])
def test_compress_refuses_data_it_cannot_use(project, data):
    with pytest.raises(ConfigError, match="data"):
        mlflow_compress.compress("tiny.onnx", data=data, tracking_uri="sqlite:///none.db")


def test_new_evaluation_rows_score_the_incumbent_again(project):
    assert project.run(recipes=RECIPES[3:], recipe=None).exit_code == 0
    before = project.client.get_model_version_by_alias("tiny-edge", "device").version
    rows = rows_of(project)
    np.savez(project.folder / "fewer.npz", **{k: v[:50] for k, v in rows.items()})
    done = project.run(data={"evaluation": "fewer.npz"}, recipes=RECIPES[3:], recipe=None)
    assert done.exit_code == 0, done.output
    assert "device: kept" in done.stdout
    assert project.client.get_model_version_by_alias("tiny-edge", "device").version == before


def start(project, recipes):
    """Start the command line in a process of its own and wait for its second trial."""
    import yaml

    config = project.config | {"recipes": recipes, "targets": TARGETS}
    del config["recipe"]
    config["search"] = {"latency_rounds": 400}  # slow enough to be caught in the middle
    path = project.folder / "compress.yaml"
    path.write_text(yaml.safe_dump(config))
    code = "from mlflow_compress.cli.main import main; main()"
    process = subprocess.Popen(
        [sys.executable, "-c", code, "run", str(path)],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=dict(os.environ),
    )  # fmt: skip
    for line in process.stdout:
        if line.startswith("trial 1:"):
            return process, path
    raise AssertionError(f"ended with {process.wait()} before its second trial")


def open_runs(client):
    experiments = [one.experiment_id for one in client.search_experiments()]
    runs = client.search_runs(experiments)
    return [run.info.run_id for run in runs if run.info.status == "RUNNING"]


def finish(path):
    code = "from mlflow_compress.cli.main import main; main()"
    return subprocess.run(
        [sys.executable, "-c", code, "run", str(path)], capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_a_search_that_was_stopped_is_finished_by_the_next_run(project, how):
    recipes = [[{"share": {"clusters": n}}] for n in range(8, 20)]
    process, path = start(project, recipes)
    time.sleep(0.3)
    process.send_signal(how)
    code = process.wait(timeout=60)
    output = process.stdout.read()
    assert code == (130 if how == signal.SIGINT else -signal.SIGKILL), output
    client = MlflowClient(project.config["tracking_uri"])
    if how == signal.SIGINT:
        assert "stopped by Ctrl-C" in output
        assert open_runs(client) == []
    assert client.search_registered_models() == []
    done = finish(path)
    assert done.returncode == 0, done.stderr
    assert "12 trials: " in done.stdout
    assert "0 reused" not in done.stdout
    assert open_runs(client) == []
    experiments = [one.experiment_id for one in client.search_experiments()]
    models = client.search_logged_models(experiment_ids=experiments)
    assert len(models) == 12
    assert {str(model.status) for model in models} == {"READY"}
    versions = client.search_model_versions("name = 'tiny-edge'")
    keys = [version.tags["compress.key"] for version in versions]
    assert len(keys) == len(set(keys)) > 0


def test_the_packed_files_of_a_job_are_not_left_in_the_temporary_folder(project, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(project.folder / "tmp"))
    (project.folder / "tmp").mkdir()
    import tempfile

    monkeypatch.setattr(tempfile, "tempdir", None)
    assert project.run().exit_code == 0
    assert list((project.folder / "tmp").iterdir()) == []


def test_a_variant_is_a_valid_onnx_file(project, tmp_path):
    assert project.run().exit_code == 0
    (file,) = (tmp_path / "mlartifacts").rglob("model.onnx")
    onnx.checker.check_model(onnx.load(file), full_check=True)


def test_training_rows_train_and_are_part_of_the_trial_s_identity(project):
    rows = rows_of(project)
    np.savez(project.folder / "train.npz", **rows)
    recipe = [{"prune": {"sparsity": 0.5, "epochs": 2, "batch": 16}}]
    assert project.run(recipe=recipe).exit_code == 0
    data = {"evaluation": "rows.npz", "train": "train.npz"}
    done = project.run(recipe=recipe, data=data)
    assert done.exit_code == 0, done.output
    assert "1 run now, 0 reused" in done.stdout
    untrained, trained = project.client.search_model_versions("name = 'tiny-edge'")
    assert untrained.tags["compress.sha256"] != trained.tags["compress.sha256"]


def test_a_learning_search_that_was_broken_off_ends_as_if_it_had_not_been(project):
    class Stopped(job.Watcher):
        def __init__(self, after):
            self.left = after

        def trial(self, trial):
            self.left -= 1
            if self.left == 0:
                raise KeyboardInterrupt

    changes = {
        "recipe": [{"prune": {"sparsity": {"low": 0.1, "high": 0.9, "step": 0.01}}}, "share"],
        "search": {"strategy": "tpe", "trials": 16, "latency_rounds": 0, "workers": 1},
        "targets": [],
    }
    config = absolute_paths(parse_config(project.config | changes), project.folder)
    with pytest.raises(KeyboardInterrupt):
        job.run(config, watcher=Stopped(13))
    assert open_runs(project.client) == []
    again = job.run(config).trials
    assert [t.state for t in again].count("reused") >= 13
    fresh = project.config["tracking_uri"].replace("mlflow.db", "other.db")
    whole = job.run(config.model_copy(update={"tracking_uri": fresh})).trials
    assert {t.state for t in whole} == {"complete"}
    assert [t.key for t in again] == [t.key for t in whole]


def test_a_training_that_was_broken_off_goes_on_and_logs_every_epoch(project):
    class Impatient(job.Watcher):
        def __init__(self, last):
            self.epochs, self.last = [], last

        def epoch(self, epoch):
            self.epochs.append(epoch.epoch)
            if epoch.epoch == self.last:
                raise KeyboardInterrupt

    np.savez(project.folder / "train.npz", **rows_of(project))
    changes = {
        "recipe": [{"prune": {"sparsity": 0.5, "epochs": 6, "batch": 16}}],
        "data": {"evaluation": "rows.npz", "train": "train.npz"},
        "search": {"latency_rounds": 0, "workers": 1, "checkpoint_folder": "kept"},
    }
    config = absolute_paths(parse_config(project.config | changes), project.folder)
    with pytest.raises(KeyboardInterrupt):
        job.run(config, watcher=Impatient(4))
    assert len(list((project.folder / "kept").glob("*.pt"))) == 1
    assert open_runs(project.client) == []
    again = Impatient(None)
    (trial,) = job.run(config, watcher=again).trials
    assert again.epochs == [4, 5, 6]  # the epoch that was told last had not been saved
    assert not list((project.folder / "kept").glob("*.pt"))
    run = project.client.get_run(trial.variant.run_id)
    assert {"train.prune.loss", "train.prune.validation_loss"} <= set(run.data.metrics)
    history = project.client.get_metric_history(run.info.run_id, "train.prune.loss")
    assert [point.step for point in history] == [4, 5, 6]


def test_only_old_checkpoints_are_deleted_from_a_folder(project):
    folder = project.folder / "kept"
    folder.mkdir()
    names = [f"{'a' * 32}.pt", f"{'b' * 32}.pt", f"{'c' * 32}.123"]
    for name in names:
        (folder / name).touch()
        if not name.startswith("b"):
            os.utime(folder / name, (1e9, 1e9))
    np.savez(project.folder / "train.npz", **rows_of(project))
    search = {"latency_rounds": 0, "workers": 1, "checkpoint_folder": "kept"}
    data = {"evaluation": "rows.npz", "train": "train.npz"}
    assert project.run(data=data, search=search).exit_code == 0
    assert sorted(path.name for path in folder.iterdir()) == [names[1], "mlflow-compress.json"]


def test_distill_needs_training_rows(project):
    project.refuses(2, "recipe[0]", "distill", "data.train", recipe=["distill"])


@pytest.mark.parametrize("strategy", ["tpe", "evolution"])
def test_a_search_that_learns_ends_with_its_patience(project, strategy):
    recipe = [{"prune": {"sparsity": {"low": 0.1, "high": 0.9, "step": 0.01}}}]
    search = {"strategy": strategy, "patience": 3, "trials": 40, "latency_rounds": 0}
    done = project.run(recipe=recipe, search=search)
    assert done.exit_code == 0, done.output
    (run,) = [
        run
        for run in project.client.search_runs(["1"])
        if run.data.tags["compress.kind"] == "search"
    ]
    assert run.data.tags["compress.strategy"] == strategy
    assert 3 < run.data.metrics["trials"] < 40


@pytest.mark.parametrize(
    ("key", "value"), [("patience", 0), ("minutes", 0), ("strategy", "tpo"), ("minutes", "long")]
)
def test_a_wrong_search_key_is_refused(project, key, value):
    project.refuses(2, f"search.{key}", str(value), search={key: value})


def searches_of(project):
    runs = [
        run
        for experiment in project.client.search_experiments()
        for run in project.client.search_runs([experiment.experiment_id])
    ]
    return [run for run in runs if run.data.tags.get("compress.kind") == "search"]


GRID = [
    {"prune": {"sparsity": {"choices": [0.2, 0.4]}}},
    {"share": {"clusters": {"choices": [16, 32]}}},
]


@pytest.mark.parametrize(("cache", "reused"), [("1MB", 2), (0, 0)])
def test_steps_in_common_are_made_once_and_counted_in_the_run(project, cache, reused):
    search = {"latency_rounds": 0, "cache": cache, "workers": 1}
    done = project.run(recipe=GRID, search=search)
    assert done.exit_code == 0, done.output
    (run,) = searches_of(project)
    assert run.data.metrics["steps"] == 8
    assert run.data.metrics["steps_reused"] == reused


def test_a_cache_folder_serves_the_next_search(project):
    search = {"latency_rounds": 0, "cache_folder": "steps"}
    assert project.run(recipe=GRID, search=search).exit_code == 0
    assert len(list((project.folder / "steps").glob("*.step"))) == 6
    rows = rows_of(project)
    np.savez(project.folder / "fewer.npz", **{k: v[:50] for k, v in rows.items()})
    data = {"evaluation": "fewer.npz"}  # scored anew, compressed already
    assert project.run(recipe=GRID, search=search, data=data).exit_code == 0
    newest = max(searches_of(project), key=lambda run: run.info.start_time)
    assert newest.data.metrics["steps_reused"] == newest.data.metrics["steps"] == 8


def test_a_cache_folder_of_somebody_else_is_refused_and_left_as_it_is(project):
    folder = project.folder / "steps"
    folder.mkdir()
    (folder / "thesis.tex").write_text("three years")
    done = project.run(recipe=GRID, search={"cache_folder": "steps"})
    assert done.exit_code == 2
    assert "holds something else (thesis.tex): name a folder that is empty or not" in done.stderr
    assert [path.name for path in folder.iterdir()] == ["thesis.tex"]


def test_a_cache_folder_that_cannot_be_made_is_told_and_not_needed(project, caplog):
    (project.folder / "file").touch()
    search = {"latency_rounds": 0, "cache_folder": "file/steps"}
    assert project.run(recipe=GRID, search=search).exit_code == 0
    assert "file/steps: Not a directory: steps are kept for this search alone" in caplog.text
    (run,) = searches_of(project)
    assert run.data.metrics["steps_reused"] > 0


def test_a_dropped_trial_has_a_run_of_its_own_and_is_not_reused(project):
    targets = [{"name": "device", "limits": {"size": "3kB"}, "accuracy": {"max_drop": 0.25}}]
    recipes = [[{"share": {"clusters": 16}}], []]
    search = {"latency_rounds": 2, "window": 1}
    done = project.run(recipe=None, recipes=recipes, targets=targets, search=search)
    assert done.exit_code == 0, done.output
    assert "dropped: " in done.stderr
    assert "1 run now, 0 reused, 0 failed, 1 dropped" in done.stdout
    (run,) = searches_of(project)
    assert run.data.metrics["trials_dropped"] == 1
    again = project.run(recipe=None, recipes=recipes)  # a target that takes it
    assert "1 run now, 1 reused, 0 failed" in again.stdout


@pytest.mark.parametrize("calibration", [None, "unlabelled.npz"])
def test_what_each_layer_bears_is_logged_as_a_table_and_a_figure(project, calibration):
    import mlflow

    data = {"evaluation": "rows.npz"} | ({"calibration": calibration} if calibration else {})
    search = {"latency_rounds": 0, "sensitivity": True}
    done = project.run(data=data, search=search)
    assert done.exit_code == 0, done.output
    experiments = [one.experiment_id for one in project.client.search_experiments()]
    (run,) = project.client.search_runs(experiments, "tags.`compress.kind` = 'sensitivity'")
    table = mlflow.artifacts.load_dict(f"{run.info.artifact_uri}/sensitivity/sensitivity.json")
    rows = [dict(zip(table["columns"], row, strict=True)) for row in table["data"]]
    assert len(rows) == 2 * (1 + 4 + 4)
    assert {row["layer"] for row in rows} == {"w1", "w2"}
    assert all(row["accuracy"] is None for row in rows) == bool(calibration)
    files = project.client.list_artifacts(run.info.run_id, "sensitivity")
    assert {file.path for file in files} >= {"sensitivity/sensitivity.html"}
    assert open_runs(project.client) == []


def test_what_each_layer_bears_shrinks_the_space_and_gives_the_first_points(project):
    recipe = [{"prune": {"sparsity": {"layers": {"w1": {"choices": [0.1, 0.5, 0.99]}}}}}]
    search = {"latency_rounds": 0, "sensitivity": "both", "strategy": "random", "trials": 3}
    targets = [{"name": "device", "accuracy": {"max_kl": 1e-9}}]
    done = project.run(recipe=recipe, search=search, targets=targets)
    assert done.exit_code == 3, done.output
    assert "space cut: prune w1 to 0.1" in done.output
    assert "1 run now" in done.output


def test_what_there_is_nothing_to_act_on_is_refused(project):
    search = {"sensitivity": "seed"}
    words = "search.sensitivity seed: no recipe has a range per layer"
    project.refuses(2, words, recipe=["share"], search=search)
    words = "search.sensitivity must be false, true, seed, shrink or both, got 'all'"
    project.refuses(2, words, search={"sensitivity": "all"})
