"""A path search from its file to a registered network: logged, resumed, and a source like any."""

import json
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import yaml
from click.testing import CliRunner

from mlflow_compress.cli.main import cli
from mlflow_compress.config.paths import PathConfig, PathData, find_target, load_path_config
from mlflow_compress.errors import ConfigError, DataError, TechniqueError
from mlflow_compress.jobs.nas import paths as path_job
from mlflow_compress.jobs.nas.paths import run_paths
from mlflow_compress.mlflow_plugin import connect, resolve
from mlflow_compress.nas import LatencyTable, PathSettings, PathSpace
from mlflow_compress.records import Recipe, Step
from mlflow_compress.report.gates import gates_figure
from mlflow_compress.targets import load_target
from mlflow_compress.techniques import Context, apply_recipe, normalize
from mlflow_compress.techniques.graph.running import run, session
from tests.nas.made import bars

SPACE = {
    "stem": {"channels": 6},
    "stages": [{"channels": 8}, {"channels": 8}],
    "candidates": {"regular": [3], "separable": [3]},
}
SEARCH = {"epochs": 3, "warmup": 1, "every": 4, "alpha_rate": 0.1, "batch": 50, "weight": 0.5,
          "loss": "additive", "learning_rate": 0.1, "retrain_epochs": 12}  # fmt: skip


@pytest.fixture
def config(tmp_path, store_uri):
    """A configuration file in a folder with rows and a store."""
    for name, rows, seed in (("train", 600, 0), ("evaluation", 300, 5)):
        images, labels = bars(rows, seed)
        np.savez(tmp_path / f"{name}.npz", image=images, labels=labels)
    data = {
        "name": "bars",
        "tracking_uri": "sqlite:///mlflow.db",
        "data": {"train": "train.npz", "evaluation": "evaluation.npz"},
        "space": SPACE,
        "search": SEARCH,
        "checkpoint_folder": "checkpoints",
        "targets": [{"name": "here", "measured_on": "local", "objective": "accuracy"}],
    }
    path = tmp_path / "space.yaml"
    path.write_text(yaml.safe_dump(data))
    return path


@pytest.fixture
def here():
    return load_target({"name": "here", "measured_on": "local", "objective": "accuracy"})


def test_the_command_logs_and_registers_a_network_that_is_a_source(config, tmp_path):
    asked = ["nas", "paths", str(config), "--target", "here", "--set", "search.weight=0.2"]
    done = CliRunner().invoke(cli, asked, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    assert "models:/bars/1: " in done.stdout
    assert not list((tmp_path / "checkpoints").glob("*[0-9a-f].*"))

    client = connect(f"sqlite:///{tmp_path / 'mlflow.db'}")
    version = client.get_model_version("bars", "1")
    found = client.get_run(version.run_id)
    assert found.info.status == "FINISHED"
    assert found.data.params["weight"] == "0.2"
    assert found.data.params["target"] == "here"
    for metric in ("expected_ms", "likeliest_ms", "score", "loss", "decided"):
        history = client.get_metric_history(version.run_id, f"nas.{metric}")
        steps = [entry.step for entry in history]
        assert steps == [1, 2, 3], metric
    assert found.data.metrics["nas.accuracy"] > 0.5
    assert float(version.tags["compress.nas.accuracy"]) == pytest.approx(
        found.data.metrics["nas.accuracy"], abs=1e-5
    )
    client.download_artifacts(version.run_id, "", str(tmp_path))
    gates = json.loads((tmp_path / "gates/gates.json").read_text())
    assert gates["columns"] == ["epoch", "place", "candidate", "probability"]
    assert len(gates["data"]) == 3 * (2 + 3)
    assert "place 2" in (tmp_path / "gates/gates.html").read_text()
    table = json.loads((tmp_path / "latency_table.json").read_text())
    assert table["device"] == "local"

    source = resolve("models:/bars/1", tmp_path, client=client)
    images, labels = bars(300, 5)
    recipe = Recipe((Step("share", {"clusters": 64}), Step("trim")))
    made = apply_recipe(normalize(source.model), recipe, Context()).model
    for model in (source.model, made):
        (logits,) = run(session(model), ["logits"], {"image": images})
        right = float((logits.argmax(1) == labels).mean())
        assert right == pytest.approx(found.data.metrics["nas.accuracy"], abs=0.1)


def test_a_search_that_was_killed_goes_on_in_its_run(config, here, tmp_path):
    checked = load_path_config(config)

    def kill(text):
        if text.startswith("training the network"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_paths(checked, here, tell=kill)
    assert len(list((tmp_path / "checkpoints").glob("*[0-9a-f].*"))) == 2
    client = connect(checked.tracking_uri)
    experiment = client.get_experiment_by_name("bars").experiment_id
    assert [run.info.status for run in client.search_runs([experiment])] == ["KILLED"]
    told = []
    result = run_paths(checked, here, tell=told.append)
    runs = client.search_runs([experiment])
    assert [run.info.run_id for run in runs] == [result.run_id]
    assert runs[0].info.status == "FINISHED"
    history = client.get_metric_history(result.run_id, "nas.expected_ms")
    assert [entry.step for entry in history] == [1, 2, 3]
    assert [e.expected_ms for e in result.found.history] == pytest.approx(
        [entry.value for entry in history]
    )
    assert "going on with the search that was broken off" in told[1]
    assert not list((tmp_path / "checkpoints").glob("*[0-9a-f].*"))


@pytest.mark.parametrize(
    "changes",
    [
        {"limits": {"latency_p50": "0.03ms"}},
        {"execution": {"memory": "64MB"}},
        {"execution": {"providers": ["XnnpackExecutionProvider", "CPUExecutionProvider"]}},
    ],
)
def test_a_search_for_another_limit_or_runtime_begins_anew(config, here, monkeypatch, changes):
    def stop(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("mlflow_compress.nas.search_paths", stop)
    table = LatencyTable("local", 1, {}, 0.0)
    monkeypatch.setattr("mlflow_compress.jobs.nas.paths._Job._measured", lambda self: table)
    checked, told = load_path_config(config), []
    other = load_target({"name": "here", "measured_on": "local", "objective": "accuracy"} | changes)
    for target in (here, other, here):
        told.append("")
        with pytest.raises(KeyboardInterrupt):
            run_paths(checked, target, tell=lambda line: told.append(line[:8]))
    assert [line for line in told if line in ("", "going on")] == ["", "", "", "going on"]
    client = connect(checked.tracking_uri)
    experiment = client.get_experiment_by_name("bars").experiment_id
    assert len(client.search_runs([experiment])) == 2


@pytest.mark.parametrize("said", ['{"run": "abc", "ta', '{"run": "abc"}', "[1]", ""])
def test_a_damaged_marker_is_as_good_as_none(config, here, tmp_path, monkeypatch, caplog, said):
    def stop(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("mlflow_compress.nas.search_paths", stop)
    table = LatencyTable("local", 1, {}, 0.0)
    monkeypatch.setattr("mlflow_compress.jobs.nas.paths._Job._measured", lambda self: table)
    checked = load_path_config(config)
    with pytest.raises(KeyboardInterrupt):
        run_paths(checked, here)
    (marker,) = (tmp_path / "checkpoints").glob("*[0-9a-f].*")
    marker.write_text(said)
    with pytest.raises(KeyboardInterrupt):
        run_paths(checked, here)
    assert "is damaged" in caplog.text
    assert json.loads(marker.read_text())["table"] == table.to_dict()


def test_a_folder_that_cannot_be_written_only_warns(config, here, tmp_path, monkeypatch, caplog):
    def fail(*_, **__):
        raise TechniqueError("no")

    monkeypatch.setattr("mlflow_compress.nas.search_paths", fail)
    table = LatencyTable("local", 1, {}, 0.0)
    monkeypatch.setattr("mlflow_compress.jobs.nas.paths._Job._measured", lambda self: table)
    (tmp_path / "checkpoints").write_text("a file")
    checked = load_path_config(config)
    with pytest.raises(TechniqueError):
        run_paths(checked, here)
    assert "no marker in" in caplog.text
    client = connect(checked.tracking_uri)
    (found,) = client.search_runs([client.get_experiment_by_name("bars").experiment_id])
    assert found.info.status == "FAILED"


def test_a_search_that_fails_says_so_in_its_run(config, here, tmp_path, monkeypatch):
    def fail(*_, **__):
        raise TechniqueError("no")

    monkeypatch.setattr("mlflow_compress.nas.search_paths", fail)
    checked = load_path_config(config)
    with pytest.raises(TechniqueError):
        run_paths(checked, here)
    client = connect(checked.tracking_uri)
    (found,) = client.search_runs([client.get_experiment_by_name("bars").experiment_id])
    assert found.info.status == "FAILED"
    assert not list((tmp_path / "checkpoints").glob("*[0-9a-f].*"))


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ("data.trian=a.npz", r"unknown key data.trian \(did you mean 'train'\?\)"),
        ("name=a/b", "name: string should match pattern"),
        ("space=3", "space: "),
        ("search.epoch=3", r"search.epoch: no such setting \(did you mean 'epochs'\?\)"),
        ("search.weight=heavy", "search.weight must be a number, got 'heavy'"),
        ("search.loss=sum", "search.loss must be one of"),
        ("space.stages=[]", "stages: "),
        ("search", "must be KEY=VALUE"),
    ],
)
def test_a_bad_file_is_refused_by_key(config, here, change, told):
    with pytest.raises(ConfigError, match=told):
        run_paths(load_path_config(config, [change]), here)


def test_a_target_is_one_of_the_file_or_a_shipped_profile(config):
    checked = load_path_config(config)
    assert find_target(checked, "here").measured_on == "local"
    assert find_target(checked, "raspberry-pi-4").name == "raspberry-pi-4"
    with pytest.raises(ConfigError, match="elsewhere"):
        find_target(checked, "elsewhere")


def test_rows_without_labels_are_refused(config, here, tmp_path):
    np.savez(tmp_path / "train.npz", image=bars(20)[0])
    with pytest.raises(DataError, match="needs labels"):
        run_paths(load_path_config(config), here)


@pytest.mark.parametrize(
    ("rows", "told"),
    [
        (
            {"image": np.zeros((20, 1, 16, 16), np.float32)},
            r"images of \[1, 12, 12\].*\[1, 16, 16\]",
        ),
        ({"image": np.zeros((20, 1, 12, 12), np.uint8)}, "uint8"),
        ({"labels": np.full(20, 9)}, "from 0 to 3, as in data.train, got 9"),
        ({"labels": np.zeros((20, 3), int)}, r"per row, got int64 of \[20, 3\]"),
        ({"labels": np.full(20, "a")}, "per row, got <U1"),
        ({"labels": np.full(20, 0.5)}, "per row, got float64"),
        ({"labels": np.full(20, -1)}, "got -1"),
    ],
)
def test_evaluation_rows_of_another_kind_are_refused_before_the_search(
    config, here, tmp_path, monkeypatch, rows, told
):
    images, labels = bars(20)
    np.savez(tmp_path / "evaluation.npz", **({"image": images, "labels": labels} | rows))
    monkeypatch.setattr(path_job.nas, "measure_table", lambda *a, **b: pytest.fail("measured"))
    with pytest.raises(DataError, match=told):
        run_paths(load_path_config(config), here)


def test_the_figure_has_a_panel_per_place_and_a_curve_per_candidate():
    rows = [
        {"epoch": epoch, "place": place, "candidate": name, "probability": 0.5}
        for epoch in (1, 2) for place, names in ((1, "ab"), (2, "abc")) for name in names
    ]  # fmt: skip
    figure = gates_figure(rows)
    assert [trace.name for trace in figure.data] == ["a", "b", "a", "b", "c"]
    assert [trace.showlegend for trace in figure.data] == [True, True, False, False, True]
    assert all(len(trace.x) == 2 for trace in figure.data)


def test_the_page_describes_every_key():
    page = (Path(__file__).parents[2] / "docs/nas.md").read_text()
    section = page.split("\n## ProxylessNAS\n")[1]
    keys = [field.name for field in fields(PathSettings)]
    keys += [key for key in PathConfig.model_fields if key not in ("data", "space", "search")]
    keys += [f"data.{key}" for key in PathData.model_fields]
    assert all(f"| `{key}` |" in section for key in keys)
    assert all(f"`space.{key}`" in section for key in SPACE)


def test_the_example_is_a_path_search():
    path = Path(__file__).parents[2] / "examples/nas_edge/paths.yaml"
    config = load_path_config(path)
    assert find_target(config, "camera").limits.latency_p50_ms == 0.12
    assert PathSpace.parse(config.space, channels=1, size=28, classes=10).count == 900
    assert PathSettings(**config.search).weight == 0.2
