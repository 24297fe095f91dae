import hashlib
import os
import subprocess
import sys
from pathlib import Path

import mlflow
import numpy as np
import onnx
import pytest
from mlflow.exceptions import MlflowException
from mlflow.models import Model
from onnx import TensorProto, helper

import mlflow_compress
from mlflow_compress import packed
from mlflow_compress.errors import ConfigError, PackedFormatError, SourceError
from mlflow_compress.mlflow_plugin import flavor
from tests.tiny import network

PROFILES = ["plain", "portable", "compact"]


def expected(path, images):
    return packed.load(path).run(None, {"image": images})[0]


@pytest.mark.parametrize("profile", PROFILES)
def test_pyfunc_says_what_the_variant_says(tmp_path, packed_file, images, profile):
    path = packed_file(profile)
    flavor.save_model(path, tmp_path / "model")
    loaded = mlflow.pyfunc.load_model(str(tmp_path / "model"))
    want = expected(path, images)
    np.testing.assert_array_equal(loaded.predict(images), want)
    np.testing.assert_array_equal(loaded.predict({"image": images}), want)


def test_the_project_of_the_current_folder_is_none_of_the_model_s(
    tmp_path, packed_file, monkeypatch
):
    """MLflow would log its files, and build serving environments from them."""
    path, project = packed_file(), tmp_path / "project"
    project.mkdir()
    for name in ("uv.lock", "pyproject.toml", ".python-version"):
        (project / name).write_text("")
    monkeypatch.chdir(project)
    flavor.save_model(path, tmp_path / "model")
    logged = {file.name for file in (tmp_path / "model").iterdir()}
    assert "requirements.txt" in logged
    assert not logged & {file.name for file in project.iterdir()}
    assert "MLFLOW_UV_AUTO_DETECT" not in os.environ


def test_several_outputs_come_by_name(tmp_path, packed_file, images):
    path = packed_file(outputs=("logits", "classes"))
    flavor.save_model(path, tmp_path / "model")
    found = mlflow.pyfunc.load_model(str(tmp_path / "model")).predict(images)
    assert set(found) == {"logits", "classes"}
    np.testing.assert_array_equal(found["classes"], found["logits"].argmax(axis=1))


def test_the_signature_names_every_tensor(tmp_path, packed_file):
    flavor.save_model(packed_file(), tmp_path / "model")
    signature = Model.load(str(tmp_path / "model")).signature
    (given,), (returned,) = signature.inputs.inputs, signature.outputs.inputs
    assert (given.name, given.type, given.shape) == ("image", np.dtype("float32"), (-1, 20))
    assert (returned.name, returned.shape) == ("logits", (-1, 10))


def test_an_input_that_declares_no_shape_has_the_examples_dimensions(tmp_path, images):
    model = network()
    model.graph.input[0].type.tensor_type.ClearField("shape")
    path = tmp_path / "m.onnx"
    packed.save(packed.pack(model), path)
    flavor.save_model(path, tmp_path / "model", input_example={"image": images})
    (given,) = Model.load(str(tmp_path / "model")).signature.inputs.inputs
    assert given.shape == (-1, -1)


@pytest.mark.parametrize("profile", PROFILES)
def test_native_load_is_a_session(tmp_path, packed_file, images, profile):
    path = packed_file(profile)
    flavor.save_model(path, tmp_path / "model", threads=1)
    session = flavor.load_model(str(tmp_path / "model"))
    np.testing.assert_array_equal(session.run(None, {"image": images})[0], expected(path, images))
    assert session.get_session_options().intra_op_num_threads == 1
    two = flavor.load_model(str(tmp_path / "model"), threads=2)
    assert two.get_session_options().intra_op_num_threads == 2


def test_threads_can_be_chosen_when_loading(tmp_path, packed_file):
    flavor.save_model(packed_file(), tmp_path / "model")
    loaded = mlflow.pyfunc.load_model(str(tmp_path / "model"), model_config={"threads": 2})
    session = loaded.get_raw_model()
    assert session.get_session_options().intra_op_num_threads == 2


def test_providers_can_be_chosen_when_loading(tmp_path, packed_file, images, monkeypatch):
    path = packed_file()
    flavor.save_model(path, tmp_path / "model", providers=["CUDAExecutionProvider"])
    asked = []
    monkeypatch.setattr(
        packed, "load", lambda file, providers, threads: asked.append((providers, threads))
    )
    for chosen in ("CPUExecutionProvider", ["CPUExecutionProvider"]):
        with pytest.raises(AttributeError):  # there is no session to ask for its inputs
            mlflow.pyfunc.load_model(str(tmp_path / "model"), model_config={"providers": chosen})
    flavor.load_model(str(tmp_path / "model"), providers=[("CPUExecutionProvider", {"x": "1"})])
    assert asked == [
        (["CPUExecutionProvider"], None),
        (["CPUExecutionProvider"], None),
        ([("CPUExecutionProvider", {"x": "1"})], None),
    ]
    with pytest.raises(ConfigError, match=r"\['CUDA.*'\]: none of them is available here, only"):
        mlflow.pyfunc.load_model(str(tmp_path / "model"))


def test_a_second_choice_of_provider_is_taken_where_the_first_is_not(tmp_path, packed_file):
    chosen = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    flavor.save_model(packed_file(), tmp_path / "model", providers=chosen)
    with pytest.warns(UserWarning, match="CUDAExecutionProvider"):
        session = flavor.load_model(str(tmp_path / "model"))
    assert session.get_providers() == ["CPUExecutionProvider"]


@pytest.mark.parametrize(("key", "wrong"), [
    ("threads", 0), ("threads", -1), ("threads", "2"), ("threads", 1.5), ("threads", True),
    ("providers", 3), ("providers", []), ("providers", [3]), ("providers", {"CPU": 1}),
])  # fmt: skip
def test_settings_that_are_none_are_refused_when_saving_and_loading(
    tmp_path, packed_file, key, wrong
):
    path = packed_file("plain")
    with pytest.raises(ConfigError, match=f"^{key} must be .* got "):
        flavor.save_model(path, tmp_path / "refused", **{key: wrong})
    assert not (tmp_path / "refused").exists()
    flavor.save_model(path, tmp_path / "model")
    with pytest.raises(ConfigError, match=f"^{key} must be .* got "):
        mlflow.pyfunc.load_model(str(tmp_path / "model"), model_config={key: wrong})


@pytest.mark.parametrize("profile", ["plain", "portable"])
def test_what_onnxruntime_loads_mlflows_own_flavor_loads(tmp_path, packed_file, images, profile):
    path = packed_file(profile)
    flavor.save_model(path, tmp_path / "model")
    model = mlflow.onnx.load_model(str(tmp_path / "model"))
    session = packed.load(model.SerializeToString())
    np.testing.assert_array_equal(session.run(None, {"image": images})[0], expected(path, images))


def test_a_compact_model_does_not_claim_that(tmp_path, packed_file):
    flavor.save_model(packed_file("compact"), tmp_path / "model")
    assert "onnx" not in Model.load(str(tmp_path / "model")).flavors


def test_the_record_of_the_flavor(tmp_path, packed_file):
    path = packed_file("compact")
    flavor.save_model(path, tmp_path / "model", raw_bytes=800)
    conf = Model.load(str(tmp_path / "model")).flavors["mlflow_compress"]
    assert conf["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert (conf["packed_bytes"], conf["raw_bytes"]) == (path.stat().st_size, 800)
    assert conf["profile"] == "compact"
    requirements = (tmp_path / "model" / "requirements.txt").read_text()
    assert "mlflow-compress" not in requirements


@pytest.mark.parametrize("load", [flavor.load_model, mlflow.pyfunc.load_model])
def test_a_changed_file_is_refused(tmp_path, packed_file, load):
    flavor.save_model(packed_file("plain"), tmp_path / "model")
    stored = tmp_path / "model" / "data" / "model.onnx"
    stored.write_bytes(stored.read_bytes() + b"\0")
    with pytest.raises(PackedFormatError, match=r"model\.onnx has sha256 .* its MLmodel file says"):
        load(str(tmp_path / "model"))


@pytest.mark.parametrize("load", [flavor.load_model, mlflow.pyfunc.load_model])
def test_a_missing_file_is_said_to_be_missing(tmp_path, packed_file, load):
    flavor.save_model(packed_file("plain"), tmp_path / "model")
    (tmp_path / "model" / "data" / "model.onnx").unlink()
    with pytest.raises(PackedFormatError, match=r"model\.onnx is missing: log or download"):
        load(str(tmp_path / "model"))


def test_a_model_of_several_files_is_refused(tmp_path, onnx_model):
    path = tmp_path / "whole.onnx"
    onnx.save(onnx_model, path, save_as_external_data=True, location="w.bin", size_threshold=0)
    with pytest.raises(SourceError, match=r"whole\.onnx keeps weights in w\.bin: a model of this"):
        flavor.save_model(path, tmp_path / "model")


def test_inputs_and_outputs_of_several_names(tmp_path):
    infos = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["n", 2]) for n in "abyz"]
    nodes = [helper.make_node("Add", ["a", "b"], ["y"]), helper.make_node("Sub", ["a", "b"], ["z"])]
    graph = helper.make_graph(nodes, "two", infos[:2], infos[2:])
    opset = [helper.make_opsetid("", 18)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=9), tmp_path / "two.onnx")
    a, b = np.full((3, 2), 5, np.float32), np.ones((3, 2), np.float32)
    example = {"a": a, "b": b}
    flavor.save_model(tmp_path / "two.onnx", tmp_path / "model", input_example=example)
    loaded = mlflow.pyfunc.load_model(str(tmp_path / "model"))
    found = loaded.predict({"b": b, "a": a})
    np.testing.assert_array_equal(found["y"], a + b)
    np.testing.assert_array_equal(found["z"], a - b)
    np.testing.assert_array_equal(loaded.input_example["a"], a)
    for wrong in (a, {"a": a}, {"a": a, "b": b.astype(np.float64)}):
        with pytest.raises(MlflowException, match="Failed to enforce schema"):
            loaded.predict(wrong)


def test_another_flavor_is_named(tmp_path, onnx_model):
    mlflow.onnx.save_model(onnx_model, str(tmp_path / "model"))
    with pytest.raises(SourceError, match="has no flavor mlflow_compress, only onnx, python_func"):
        flavor.load_model(str(tmp_path / "model"))


def test_logged_registered_and_loaded_by_alias(store_uri, packed_file, images):
    mlflow.set_tracking_uri(store_uri)
    path = packed_file()
    with mlflow.start_run():
        info = flavor.log_model(
            path, "edge", registered_model_name="lenet-edge", input_example=images[:2]
        )
    client = mlflow.MlflowClient()
    client.set_registered_model_alias("lenet-edge", "pi", info.registered_model_version)
    loaded = mlflow.pyfunc.load_model("models:/lenet-edge@pi")
    np.testing.assert_array_equal(loaded.predict(images), expected(path, images))
    np.testing.assert_array_equal(loaded.input_example["image"], images[:2])


LOAD_WHERE_IT_IS_NOT_INSTALLED = """
import importlib.util, sys
# Hide the editable install, as on a machine that never had this package.
sys.meta_path = [f for f in sys.meta_path if "__editable__" not in repr(f)]
assert importlib.util.find_spec("mlflow_compress") is None
import numpy, mlflow.pyfunc
model = mlflow.pyfunc.load_model("model")
numpy.save("out.npy", model.predict(numpy.load("images.npy")))
import mlflow_compress; print(mlflow_compress.__file__)
# What is imported beyond these rooms needs packages that a model does not require.
mine = [name.removeprefix("mlflow_compress.") for name in sys.modules if "mlflow_compress." in name]
rooms = ("base", "errors", "packed", "mlflow_plugin", "tracking")
assert not [name for name in mine if name.split(".")[0] not in rooms], mine
assert not {"tenacity", "optuna", "rich", "loky", "torch"} & set(sys.modules)
"""


@pytest.mark.parametrize("bundle_code", [True, False])
def test_bundled_code_loads_where_the_package_is_not(tmp_path, packed_file, images, bundle_code):
    path = packed_file()
    flavor.save_model(path, tmp_path / "model", bundle_code=bundle_code)
    np.save(tmp_path / "images.npy", images)
    home = Path(mlflow_compress.__file__).parents[1]
    keep = [p for p in sys.path if p and Path(p).resolve() != home]
    done = subprocess.run(
        [sys.executable, "-c", LOAD_WHERE_IT_IS_NOT_INSTALLED],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(keep), "PYTHONSAFEPATH": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    if not bundle_code:
        assert "No module named 'mlflow_compress'" in done.stderr.splitlines()[-1]
        return
    assert done.returncode == 0, done.stderr
    assert str(tmp_path / "model") in done.stdout
    np.testing.assert_array_equal(np.load(tmp_path / "out.npy"), expected(path, images))
