import hashlib
import os
import subprocess
import sys
from pathlib import Path

import mlflow
import numpy as np
import pytest
from mlflow.models import Model

import mlflow_compress
from mlflow_compress import packed
from mlflow_compress.errors import PackedFormatError, SourceError
from mlflow_compress.mlflow_plugin import flavor

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


def test_bundled_code_loads_without_the_package(tmp_path, packed_file, images):
    path = packed_file()
    flavor.save_model(path, tmp_path / "model", bundle_code=True)
    np.save(tmp_path / "images.npy", images)
    script = (
        "import sys\n"
        # Hide the editable install, as on a machine that never had this package.
        "sys.meta_path = [f for f in sys.meta_path if '__editable__' not in repr(f)]\n"
        "import numpy, mlflow.pyfunc\n"
        "model = mlflow.pyfunc.load_model('model')\n"
        "numpy.save('out.npy', model.predict(numpy.load('images.npy')))\n"
        "import mlflow_compress; print(mlflow_compress.__file__)\n"
    )
    home = Path(mlflow_compress.__file__).parents[1]
    keep = [p for p in sys.path if p and Path(p).resolve() != home]
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(keep), "PYTHONSAFEPATH": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert str(tmp_path / "model") in done.stdout
    np.testing.assert_array_equal(np.load(tmp_path / "out.npy"), expected(path, images))
