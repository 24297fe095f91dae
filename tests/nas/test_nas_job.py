"""The commands: a supernet trained, killed and resumed, registered, specialised, promoted."""

import os
import pickle
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import mlflow
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from mlflow import MlflowClient

from mlflow_compress.cli.main import cli
from mlflow_compress.config.compress import parse_config
from mlflow_compress.config.nas import load_nas_config
from mlflow_compress.jobs.compress import run
from mlflow_compress.jobs.nas import scores as nas_desk
from mlflow_compress.jobs.nas import supernet as nas_job
from mlflow_compress.measure import Dataset
from mlflow_compress.nas import SUPERNET_FILE, Found, Images, Supernet, accuracy
from mlflow_compress.tracking.models import using_tracking_uri
from tests.nas.conftest import write_project
from tests.nas.made import bars_data

SCRIPT = Path(sys.executable).parent / "mlflow-compress"


@pytest.fixture
def project(trained_project, tmp_path):
    """A copy of the trained project; its store is its own, the artifacts are shared."""
    folder = tmp_path / "project"
    shutil.copytree(trained_project[0], folder)
    return folder


@pytest.fixture
def client(trained_project):
    return MlflowClient(f"sqlite:///{trained_project[0]}/mlflow.db")


def test_training_is_recorded_epoch_by_epoch(trained_project, client):
    _, trained, told = trained_project
    assert trained.uri == "models:/bars/1"
    assert trained.subnets == 800
    version = client.get_model_version("bars", "1")
    assert version.tags["compress.nas.subnets"] == "800"
    found = client.get_run(version.tags["compress.nas.run"])
    assert found.info.status == "FINISHED"
    losses = client.get_metric_history(found.info.run_id, "nas.loss")
    assert [metric.step for metric in losses] == list(range(1, 8))
    assert found.data.metrics["nas.largest"] == trained.largest > 0.6
    assert sum("phase width" in line for line in told) == 2


def test_supernet_loads_without_code_of_its_own(trained_project, client, tmp_path):
    folder = trained_project[0]
    with using_tracking_uri(f"sqlite:///{folder}/mlflow.db"):
        largest = mlflow.pytorch.load_model("models:/bars/1")
        path = mlflow.artifacts.download_artifacts("models:/bars/1", dst_path=str(tmp_path))
    assert not list(Path(path).rglob("*pickle*"))
    supernet = Supernet.read(Path(path) / "extra_files" / SUPERNET_FILE)
    assert pickle.loads(pickle.dumps(supernet)) == supernet  # trials run in other processes
    images = Images.split(bars_data(200, seed=1))
    with torch.no_grad():
        torch.testing.assert_close(largest(images.held), supernet.net(images.held))
    assert accuracy(supernet.net, images.train, images.labels) > 0.6


def test_training_killed_with_sigkill_goes_on_in_the_same_run(migrated_database, tmp_path):
    file = write_project(tmp_path / "killed", train={
        "full": 2, "kernel": 1, "depth": 1, "width": 2, "batch": 32,
        "checkpoint_folder": "checkpoints",
    })  # fmt: skip
    folder = file.parent
    shutil.copy(migrated_database, folder / "mlflow.db")
    command = [str(SCRIPT), "nas", "train", str(file)]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command, env=env, stderr=subprocess.PIPE, text=True) as started:
        assert started.stderr is not None
        for line in started.stderr:
            if line.startswith("epoch 2 "):
                break
        started.send_signal(signal.SIGKILL)
    assert list((folder / "checkpoints").glob("*.pt"))
    told = []
    trained = nas_job.train(load_nas_config(file), told.append)
    assert "going on with the training" in told[1]
    assert trained.uri == "models:/bars/1"
    client = MlflowClient(f"sqlite:///{folder}/mlflow.db")
    (experiment,) = client.search_experiments(filter_string="name = 'bars'")
    (found,) = client.search_runs([experiment.experiment_id])
    assert found.info.status == "FINISHED"
    steps = [m.step for m in client.get_metric_history(found.info.run_id, "nas.loss")]
    assert sorted(steps) == list(range(1, 7))
    assert not list((folder / "checkpoints").glob("*[0-9a-f].*"))


def test_training_killed_in_its_first_epoch_goes_on_in_the_same_run(
    migrated_database, tmp_path, monkeypatch
):
    def stop(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("mlflow_compress.nas.train_supernet", stop)
    config = load_nas_config(write_project(tmp_path / "killed"))
    shutil.copy(migrated_database, tmp_path / "killed" / "mlflow.db")
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            nas_job.train(config)
    client = MlflowClient(config.tracking_uri)
    (experiment,) = client.search_experiments(filter_string="name = 'bars'")
    (found,) = client.search_runs([experiment.experiment_id])
    assert found.info.status == "KILLED"


def test_subnets_of_targets_are_promoted_through_their_recipes(project, monkeypatch):
    done = nas_job.specialize(load_nas_config(project / "space.yaml"))
    assert done.exit_code == 0
    (result,) = done.results
    assert result.fits
    assert len(result.finalists) == 2
    trials = done.outcome.trials
    assert [trial.recipe.label.rpartition(" ")[2] for trial in trials][1] == "quantize"
    assert all(t.recipe.steps[0].settings["subnet"] == str(result.best.subnet) for t in trials)
    client = MlflowClient(f"sqlite:///{project}/mlflow.db")
    assert client.get_model_version_by_alias("bars-edge", "desk").tags["compress.rate"]
    (parent,) = [
        run
        for run in client.search_runs(["1"])
        if run.data.tags.get("compress.kind") == "nas-specialize"
    ]
    artifacts = {
        item.path
        for folder in ("latency", "subnets")
        for item in client.list_artifacts(parent.info.run_id, folder)
    }
    assert artifacts == {
        "latency/desk.json", "latency/desk-calibration.json", "subnets/subnets.html",
        "subnets/subnets.json",
    }  # fmt: skip
    assert parent.data.metrics["nas.desk.accuracy"] == result.best.accuracy


@pytest.mark.parametrize(
    ("recipe", "trials"),
    [
        ({"share": {"clusters": {"choices": list(range(2, 62))}}}, 60),
        ({"prune": {"sparsity": {"low": 0.1, "high": 0.5}}}, 50),
    ],
)
def test_every_recipe_is_tried_on_rows_drawn_from_all(project, monkeypatch, recipe, trials):
    asked = []
    monkeypatch.setattr(nas_job.job, "run", lambda config, **given: asked.append((config, given)))
    config = load_nas_config(project / "space.yaml")
    best = Found(config.space.subnet(), 0.9, 1.0, 1, True)
    result = nas_job.TargetResult("desk", best, True, (best,))
    options = config.specialize.model_copy(update={"recipes": [[recipe]]})
    rows = Dataset({"image": np.zeros((9000, 1, 12, 12), np.float32)}, np.arange(9000) // 3000)
    nas_job._run_recipes(
        config.model_copy(update={"specialize": options}), "models:/bars/1",
        [result], nas_job._rows(config, rows), None,
    )  # fmt: skip
    ((job_config, given),) = asked
    assert job_config.search.trials == trials
    calibration = given["datasets"]["calibration"]
    assert calibration.rows == 2048
    assert min(np.bincount(calibration.labels)) > 500


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ("specialize.recipes=[[{prun: {}}]]", "prun"),
        ("specialize.recipes=[[{quantize: {calibrate: 3}}]]", "calibrate"),
        ("specialize.recipes=[]", "specialize.recipes"),
        ("data.evaluation=wide.npz", "image"),
        ("data.evaluation=bare.npz", "accuracy.min needs labels"),
        ("specialize.register_as=a/b", "register_as"),
    ],
)
def test_what_the_recipes_cannot_do_is_refused_before_anything_is_measured(
    project, monkeypatch, change, told
):
    images = bars_data(20).inputs["image"]
    np.savez(project / "wide.npz", image=np.zeros((20, 1, 16, 16), np.float32), labels=np.ones(20))
    np.savez(project / "bare.npz", image=images)
    monkeypatch.setattr(nas_desk.nas, "measure_table", lambda *a, **b: pytest.fail("measured"))
    changes = [change, "targets.0.accuracy={min: 0.1}"]
    done = CliRunner().invoke(cli, [
        "nas", "specialize", str(project / "space.yaml"),
        *[part for text in changes for part in ("--set", text)],
    ])  # fmt: skip
    assert done.exit_code in (2, 4), done.output
    assert told in done.stderr.splitlines()[-1]


def test_recipes_that_train_get_the_training_rows(project):
    changes = ["specialize.recipes=[[{prune: {sparsity: 0.3, epochs: 1, batch: 50}}]]"]
    done = nas_job.specialize(load_nas_config(project / "space.yaml", changes))
    (trial,) = done.outcome.trials
    assert trial.state == "complete"
    assert trial.variant.recipe.steps[1].technique == "prune"


def test_an_order_needs_the_mode_shrink(project):
    asked = ["nas", "specialize", str(project / "space.yaml"), "--order", "kernel"]
    done = CliRunner().invoke(cli, [*asked, "--mode", "evolution"])
    assert done.exit_code == 2
    assert "--order is of the mode shrink" in done.stderr


def test_shrink_mode_logs_its_path_and_says_when_nothing_fits(project):
    changes = ["targets.0.limits={latency_p50: 0.0001ms}", "specialize.order=[kernel, depth]"]
    file, told = project / "space.yaml", []
    done = nas_job.specialize(load_nas_config(file, changes), mode="shrink", tell=told.append)
    assert done.exit_code == 3
    assert done.outcome is None
    kinds = [step.kind for step in done.results[0].steps]
    assert kinds == ["", "kernel", "depth"]
    assert [line.split(":")[1] for line in told[-3:]] == [" the largest", " kernel 3", " depth 1"]
    client = MlflowClient(f"sqlite:///{project}/mlflow.db")
    runs = client.search_runs(["1"], "params.mode = 'shrink'")
    files = {item.path for item in client.list_artifacts(runs[0].info.run_id, "shrink")}
    assert files == {"shrink/desk.html", "shrink/desk.json"}


def test_recipes_mix_shrinking_a_supernet_with_other_techniques(project):
    config = {
        "source": "models:/bars/1",
        "tracking_uri": f"sqlite:///{project}/mlflow.db",
        "data": {
            "calibration": str(project / "train.npz"),
            "evaluation": str(project / "evaluation.npz"),
        },
        "recipe": [
            {"shrink": {"resolution": {"choices": [8, 12]}, "kernel": 3, "width": 1}},
            {"share": {"clusters": 16}},
        ],
        "search": {"latency_rounds": 0, "executor": "inline"},
    }
    outcome = run(parse_config(config))
    assert [trial.state for trial in outcome.trials] == ["complete"] * 2
    sizes = {trial.variant.report.size_bytes for trial in outcome.trials}
    assert max(sizes) < 0.5 * outcome.trials[0].variant.report.source_bytes
    names = {layer.name for layer in outcome.trials[0].variant.report.layers}
    assert "stage1.2.1.weight" in names


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"space": {}}, "space.resolutions is missing"),
        ({"nam": "x"}, "unknown key nam (did you mean 'name'?)"),
        ({"train": {"ful": 2}}, "unknown key train.ful (did you mean 'full'?)"),
        ({"train": {"full": 0}}, "train.full: must be greater than 0, got 0"),
        (
            {"specialize": {"order": ["kernel", "kernel"]}},
            "specialize.order kernel stands there twice",
        ),
    ],
)
def test_wrong_yaml_is_one_line_and_exit_code_2(tmp_path, changes, told):
    file = write_project(tmp_path / "wrong", **changes)
    done = CliRunner().invoke(cli, ["nas", "train", str(file)])
    assert done.exit_code == 2
    assert told in done.stderr
    assert done.stderr.count("\n") == 1


def test_images_smaller_than_the_space_are_refused(tmp_path):
    file = write_project(tmp_path / "wrong")
    done = CliRunner().invoke(
        cli, ["nas", "train", str(file), "--set", "space.resolutions=[8, 16]"]
    )
    assert done.exit_code == 2
    assert "the images are 12 x 12, got 16" in done.stderr


def test_unknown_targets_and_supernets_are_refused(project):
    runner = CliRunner()
    done = runner.invoke(cli, ["nas", "specialize", str(project / "space.yaml"), "--target", "x"])
    assert done.exit_code == 2
    assert "no target 'x' (targets: desk)" in done.stderr
    done = runner.invoke(
        cli, ["nas", "specialize", str(project / "space.yaml"), "--supernet", "models:/none/1"]
    )
    assert done.exit_code == 4
