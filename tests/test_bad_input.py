"""Bad input: one clear line, the documented exit code, and nothing half-registered."""

import numpy as np
import pytest


def test_the_project_itself_is_good(project):
    done = project.run()
    assert done.exit_code == 0, done.output
    assert "device: promoted" in done.stdout
    version = project.client.get_model_version_by_alias("tiny-edge", "device")
    assert version.tags["compress.source"].endswith("tiny.onnx")


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("none.onnx", ["none.onnx", "no such file"]),
        ("models:/nobody@champion", ["models:/nobody@champion"]),
        ("models:/nobody/3", ["models:/nobody/3"]),
        ("runs:/0123456789abcdef/model", ["runs:/0123456789abcdef/model"]),
        ("s3://bucket/model.onnx", ["models:/name@alias"]),
    ],
)
def test_a_source_that_does_not_exist(project, source, words):
    project.refuses(4, *words, source=source)


def test_a_file_that_is_not_onnx(project):
    (project.folder / "fake.onnx").write_text("hello")
    project.refuses(2, "fake.onnx", "not an ONNX model", source="fake.onnx")
    (project.folder / "empty.onnx").write_bytes(b"")
    project.refuses(2, "empty.onnx", "not an ONNX model", source="empty.onnx")


def test_labels_that_do_not_match_the_rows(project):
    x = np.zeros((10, 16), np.float32)
    np.savez(project.folder / "odd.npz", x=x, labels=np.zeros(9, int))
    project.refuses(2, "9 labels", "10 rows", data={"evaluation": "odd.npz"})


def test_labels_that_the_model_has_no_class_for(project):
    x = np.zeros((10, 16), np.float32)
    np.savez(project.folder / "odd.npz", x=x, labels=np.full(10, 7))
    project.refuses(2, "labels", "7", data={"evaluation": "odd.npz"})


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"image": np.zeros((10, 16), np.float32)}, ["'x' is missing", "image"]),
        ({"x": np.zeros((10, 15), np.float32)}, ["[10, 15]", "[rows, 16]"]),
        ({"x": np.zeros((10, 16), np.int64)}, ["int64", "float32"]),
        ({"x": np.full((10, 16), np.nan, np.float32)}, ["NaN", "row 0"]),
        ({"x": np.zeros((0, 16), np.float32)}, ["no rows"]),
        ({"x": np.zeros((5, 16), np.float32), "z": np.zeros(5)}, ["no input 'z'"]),
    ],
)
def test_inputs_that_do_not_fit_the_model(project, arrays, words):
    np.savez(project.folder / "odd.npz", **arrays)
    data = {"evaluation": "odd.npz"}
    project.refuses(2, "odd", *words, data=data, targets=[])


@pytest.mark.parametrize(
    ("path", "exit_code", "words"),
    [
        ("none.npz", 4, ["none.npz", "does not exist"]),
        ("no_such_module:load", 4, ["no_such_module"]),
        ("rows.txt", 2, ["rows.txt", ".npz"]),
    ],
)
def test_data_that_are_not_there(project, path, exit_code, words):
    project.refuses(exit_code, *words, data={"evaluation": path})


def test_an_accuracy_gate_on_data_without_labels(project):
    data = {"evaluation": "unlabelled.npz"}
    project.refuses(2, "'device'", "max_drop", "labels", "min_agreement", data=data)


def test_without_labels_agreement_is_enough(project):
    targets = [{"name": "device", "accuracy": {"min_agreement": 0.8}}]
    done = project.run(data={"evaluation": "unlabelled.npz"}, targets=targets)
    assert done.exit_code == 0, done.output
    assert "device: promoted" in done.stdout


def test_a_target_that_no_variant_meets_still_gets_its_best_registered(project):
    targets = [{"name": "device", "limits": {"size": "100B"}, "accuracy": {"max_drop": 0.25}}]
    done = project.run(targets=targets)
    assert done.exit_code == 3, done.output
    assert "device: none feasible" in done.stdout
    (version,) = project.client.search_model_versions("name = 'tiny-edge'")
    assert "size" in version.tags["compress.gap.device"]
    assert "100" in version.tags["compress.gap.device"]
    assert project.client.get_registered_model("tiny-edge").aliases == {}


def test_an_unwritable_tracking_store(project):
    place = project.folder / "file"
    place.write_text("no folder")
    uri = f"sqlite:///{place}/mlflow.db"
    project.refuses(5, "tracking store", str(place), tracking_uri=uri)


def test_a_tracking_server_that_is_not_there(project):
    uri = "http://127.0.0.1:9"
    project.refuses(5, "127.0.0.1:9", tracking_uri=uri)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"recipe": [{"prune": {"sparsity": 5}}]}, ["sparsity", "5"]),
        ({"recipe": ["zip"]}, ["zip"]),
        ({"search": {"strategy": "luck"}}, ["luck", "grid"]),
        ({"search": {"executor": "cloud"}}, ["cloud", "dask, inline, process, ray"]),
        ({"search": {"cluster": "tcp://a:1"}}, ["tcp://a:1", "set search.executor to dask"]),
        ({"search": {"workers": 9}}, ["9", "set search.window to 9 too"]),
        ({"targets": ["toaster"]}, ["toaster"]),
        ({"targets": ["browser", "browser"]}, ["browser", "twice"]),
        ({"targets": [{"name": "latest", "accuracy": {"min": 0.5}}]}, ["latest", "alias"]),
        ({"search": {"objectives": ["beauty"]}}, ["beauty", "rate"]),
        ({"data": {"evaluation": "rows.npz", "metric": "acuracy"}}, ["acuracy", "accuracy"]),
        ({"colour": "red"}, ["colour"]),
    ],
)
def test_a_wrong_configuration(project, changes, words):
    project.refuses(2, *words, **changes)


def test_a_recipe_that_needs_calibration_rows(project):
    project.refuses(2, "recipe[0]", "quantize", "data.calibration", recipe=["quantize"])


def test_every_trial_failing_is_said_with_the_first_reason(project):
    done = project.run(recipe=[{"prune": {"sparsity": 0.5, "exclude": ["nothing"]}}])
    assert done.exit_code == 1
    line = done.stderr.strip().splitlines()[-1]
    assert "all 1 trials failed" in line
    assert "nothing" in line
    assert project.client.search_registered_models() == []
