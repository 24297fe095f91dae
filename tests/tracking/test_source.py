import io
import os
import pickle
import zipfile
from pathlib import Path

import mlflow
import numpy as np
import onnx
import pytest
from mlflow.models import infer_signature

from mlflow_compress.errors import SourceError, SourceNotFoundError
from mlflow_compress.mlflow_plugin import flavor, resolve
from mlflow_compress.packed.onnx.outside import inside
from mlflow_compress.tracking.mlmodel import flavor_of, read_mlmodel
from mlflow_compress.tracking.source import identify
from tests.tiny import tiny_model


@pytest.fixture
def registered(store_uri, onnx_model, images):
    """``lenet``: version 1 and 2 are ONNX, alias champion on 1."""
    mlflow.set_tracking_uri(store_uri)
    infos = []
    for _ in range(2):
        with mlflow.start_run():
            infos.append(
                mlflow.onnx.log_model(
                    onnx_model,
                    name="net",
                    registered_model_name="lenet",
                    input_example=images[:2],
                    signature=infer_signature({"image": images}),
                    save_as_external_data=False,
                    pip_requirements=["onnx"],
                )
            )
    mlflow.MlflowClient().set_registered_model_alias("lenet", "champion", "1")
    return infos


def test_a_file_of_a_local_store_that_cannot_be_copied_is_not_waited_for(
    registered, client, tmp_path
):
    """MLflow says INTERNAL_ERROR of it, as of a server that stumbles."""
    uri = client.get_logged_model(registered[0].model_id).artifact_location
    file = Path(uri.removeprefix("file://"), "conda.yaml")
    file.unlink(missing_ok=True)
    os.mkfifo(file)
    with pytest.raises(SourceNotFoundError, match=r"source 'models:/lenet/1': .* is a named pipe"):
        resolve("models:/lenet/1", tmp_path, client=client)


@pytest.mark.parametrize(
    ("uri", "fixed", "version"),
    [
        ("models:/lenet@champion", "models:/lenet/1", 1),
        ("models:/lenet/2", "models:/lenet/2", 2),
        ("models:/lenet/latest", "models:/lenet/2", 2),
    ],
)
def test_a_registered_model(registered, client, onnx_model, tmp_path, uri, fixed, version):
    mlflow.set_tracking_uri(None)
    found = resolve(uri, tmp_path, client=client)
    assert (found.uri, found.name, found.kind, found.version) == (fixed, "lenet", "onnx", version)
    assert found.model.graph.node[0].op_type == onnx_model.graph.node[0].op_type
    assert found.module is None
    assert found.signature.inputs.inputs[0].name == "image"
    assert found.input_example is not None
    assert not mlflow.is_tracking_uri_set()


def test_a_logged_model_and_a_run(registered, client, tmp_path):
    info = registered[0]
    found = resolve(info.model_uri, tmp_path, client=client)
    assert (found.uri, found.name, found.version) == (info.model_uri, "net", None)
    uri = f"runs:/{info.run_id}/net"
    assert resolve(uri, tmp_path, client=client).kind == "onnx"


def test_a_file(tmp_path, packed_file):
    path = packed_file("plain", name="le net.onnx")
    found = resolve(str(path), tmp_path)
    assert (found.uri, found.name, found.kind) == (str(path), "le net", "onnx")
    assert isinstance(found.model, onnx.ModelProto)


@pytest.mark.parametrize("how", ["pt2", "pickle"])
def test_a_pytorch_model(store_uri, client, tmp_path, images, how):
    torch = pytest.importorskip("torch")
    mlflow.set_tracking_uri(store_uri)
    module = torch.nn.Sequential(torch.nn.Linear(20, 10), torch.nn.ReLU()).eval()
    with mlflow.start_run():
        mlflow.pytorch.log_model(
            module,
            name="net",
            registered_model_name="lenet",
            input_example=images[:2],
            serialization_format=how,
            pip_requirements=["torch"],
        )
    if how == "pickle":
        with pytest.raises(SourceError, match=r"is a pickle, which would run .* trust: true"):
            resolve("models:/lenet/1", tmp_path, client=client)
    found = resolve("models:/lenet/1", tmp_path, client=client, trust=how == "pickle")
    assert (found.kind, found.model, found.uri) == ("pytorch", None, "models:/lenet/1")
    x = torch.from_numpy(images[:2])
    with torch.no_grad():
        np.testing.assert_allclose(found.module(x).numpy(), module(x).numpy(), rtol=1e-6)


class Harm:
    """A pickle that makes a file when it is loaded."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def a_pickle(folder, ran):
    import torch

    (folder / "data/model.pt2").unlink()
    torch.save(Harm(ran), folder / "data/model.pth")
    (folder / "data/pickle_module_info.txt").write_text("mlflow.pytorch.pickle_module")


def a_pickle_beside(folder, ran):
    archive = (folder / "data/model.pt2").read_bytes()
    a_pickle(folder, ran)
    (folder / "data/model.pt2").write_bytes(archive)


def a_pickle_in_an_archive(folder, ran):
    buffer = io.BytesIO()
    with zipfile.ZipFile(folder / "data/model.pt2") as old, zipfile.ZipFile(buffer, "w") as new:
        for name in old.namelist():
            content = pickle.dumps(Harm(ran)) if name.endswith(".pt") else old.read(name)
            new.writestr(name, content)
    (folder / "data/model.pt2").write_bytes(buffer.getvalue())


def code_beside(folder, ran):
    (folder / "code").mkdir()
    (folder / "code/torch.py").write_text(f"open({str(ran)!r}, 'w')")
    text = (folder / "MLmodel").read_text()
    (folder / "MLmodel").write_text(text.replace("    code: null", "    code: code"))


def data_elsewhere(folder, ran):
    (folder / "data").rename(folder.parent / "elsewhere")
    text = (folder / "MLmodel").read_text()
    (folder / "MLmodel").write_text(text.replace("data: data", "data: ../elsewhere"))


@pytest.mark.parametrize(
    "harm", [a_pickle, a_pickle_beside, a_pickle_in_an_archive, code_beside, data_elsewhere]
)
def test_code_in_a_model_does_not_run_unasked(store_uri, client, tmp_path, images, harm):
    torch = pytest.importorskip("torch")
    mlflow.set_tracking_uri(store_uri)
    with mlflow.start_run():
        logged = mlflow.pytorch.log_model(
            torch.nn.Linear(20, 10).eval(),
            name="net",
            input_example=images[:2],
            serialization_format="pt2",
            pip_requirements=["torch"],
        )
    folder = Path(mlflow.artifacts.download_artifacts(logged.model_uri))
    harm(folder, tmp_path / "ran")
    with pytest.raises(SourceError) as caught:
        assert resolve(logged.model_uri, tmp_path, client=client).module is None
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "ran").exists()


def test_a_model_in_memory(onnx_model, tmp_path):
    found = resolve("my/net.onnx", tmp_path, source=onnx_model)
    assert (found.kind, found.name, found.model) == ("onnx", "net", onnx_model)
    with pytest.raises(SourceError, match="got int"):
        resolve("x", tmp_path, source=3)


@pytest.mark.parametrize(
    "uri",
    [
        "models:/nobody@champion",
        "models:/lenet@nobody",
        "models:/lenet/9",
        "models:/nobody/latest",
        "models:/m-0123456789abcdef0123456789abcdef",
        "models:/lenet",
        "runs:/0123456789abcdef0123456789abcdef/net",
        "runs:/x",
        "nowhere.onnx",
        "s3://bucket/model.onnx",
    ],
)
def test_what_does_not_exist(registered, client, tmp_path, uri):
    with pytest.raises(SourceNotFoundError) as caught:
        resolve(uri, tmp_path, client=client)
    assert str(caught.value).startswith(f"source {uri!r}: ")
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 4


def test_a_misspelt_alias_is_told(registered, client, tmp_path):
    with pytest.raises(SourceNotFoundError, match="did you mean 'champion'"):
        resolve("models:/lenet@champ", tmp_path, client=client)


def test_an_artifact_of_a_run_that_is_not_there(registered, client, tmp_path):
    with pytest.raises(SourceNotFoundError, match="nothing"):
        resolve(f"runs:/{registered[0].run_id}/nothing", tmp_path, client=client)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 no model", b"\x00" * 100, b"text\n" * 50])
def test_a_file_that_is_not_onnx(tmp_path, content):
    path = tmp_path / "x.onnx"
    path.write_bytes(content)
    with pytest.raises(SourceError, match="is not an ONNX model") as caught:
        resolve(str(path), tmp_path)
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 2


def test_another_flavor_is_named(store_uri, client, tmp_path):
    mlflow.set_tracking_uri(store_uri)

    class Echo(mlflow.pyfunc.PythonModel):
        def predict(self, context, model_input, params=None):
            return model_input

    with mlflow.start_run():
        mlflow.pyfunc.log_model(name="echo", python_model=Echo(), registered_model_name="echo")
    with pytest.raises(SourceError, match="has flavor python_function: only onnx and pytorch"):
        resolve("models:/echo/1", tmp_path, client=client)


def test_a_compressed_model_is_no_source(store_uri, client, tmp_path, packed_file):
    mlflow.set_tracking_uri(store_uri)
    with mlflow.start_run():
        flavor.log_model(packed_file("compact"), "edge", registered_model_name="edge")
    with pytest.raises(SourceError, match="has flavor mlflow_compress"):
        resolve("models:/edge/1", tmp_path, client=client)


def test_a_file_is_told_from_another_by_all_its_bytes_and_not_by_its_place(tmp_path, client):
    def save(folder, value):
        model = tiny_model()
        weights = model.graph.initializer[0]
        weights.raw_data = np.full(weights.dims, value, np.float32).tobytes()
        (tmp_path / folder).mkdir()
        path = tmp_path / folder / "tiny.onnx"
        onnx.save(model, path, save_as_external_data=True, location="tiny.data", size_threshold=0)
        return path

    one, same, other = save("one", 1), save("same", 1), save("other", 2)
    assert one.read_bytes() == other.read_bytes()  # they differ in the data beside them only
    digest = identify(str(one), client)[1]
    assert identify(str(same), client) == (str(same), digest)
    assert identify(str(other), client)[1] != digest
    other.with_name("tiny.data").unlink()
    with pytest.raises(SourceNotFoundError, match=r"tiny\.data"):
        identify(str(other), client)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"- a\n",
        b"text",
        b"a: [1,\n b: {",
        b"\xff\xfe\x00",
        b"\t\tx: 1",
        b"[" * 10_000,
        b"!!python/object/apply:os.system ['true']",
        b"flavors: [onnx]\n",
        b"flavors: {onnx: 3}\n",
        b"flavors: {onnx: {data: [a]}}\n",
    ],
)
def test_an_mlmodel_file_that_is_none_is_one_line(tmp_path, content):
    (tmp_path / "MLmodel").write_bytes(content)
    with pytest.raises(SourceError, match="MLmodel file") as caught:
        data = flavor_of(read_mlmodel(tmp_path, "source 'x'").flavors, "onnx").get("data")
        inside(tmp_path, data, "data of its MLmodel file")
    assert "\n" not in str(caught.value)
