"""A model of the flavor behind MLflow's own commands: served over REST, and asked once."""

import json
import os
import sys
import urllib.error
import urllib.request
from pathlib import Path

import mlflow
import numpy as np
import pytest

from mlflow_compress import packed
from mlflow_compress.mlflow_plugin import flavor
from tests.servers import free_port, running


@pytest.fixture
def deployed(store_uri, packed_file, images, monkeypatch):
    """The URI of a registered model, by its alias, and what it says about the images."""
    mlflow.set_tracking_uri(store_uri)
    # What MLflow starts must find the same store, and uvicorn beside this Python.
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store_uri)
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    path = packed_file("compact")
    with mlflow.start_run():
        info = flavor.log_model(path, "edge", registered_model_name="lenet-edge")
    version = info.registered_model_version
    mlflow.MlflowClient().set_registered_model_alias("lenet-edge", "raspberry-pi-4", version)
    wanted = packed.load(path).run(None, {"image": images})[0]
    return "models:/lenet-edge@raspberry-pi-4", wanted


def ask(url, document):
    request = urllib.request.Request(
        f"{url}/invocations", json.dumps(document).encode(), {"Content-Type": "application/json"}
    )
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as refused:
        return refused.code, refused.read().decode()


def test_a_served_model_answers_over_rest(deployed, images, tmp_path):
    uri, wanted = deployed
    port = free_port()
    url, log = f"http://127.0.0.1:{port}", tmp_path / "serve.log"
    command = [
        *(sys.executable, "-m", "mlflow", "models", "serve", "-m", uri),
        *("--env-manager", "local", "--host", "127.0.0.1", "--port", str(port)),
    ]
    with running(command, log, ready=f"{url}/ping"):
        rows = images.tolist()
        for document in (
            {"inputs": {"image": rows}},
            {"inputs": rows},
            {"instances": [{"image": row} for row in rows]},
            {"instances": rows},
        ):
            status, said = ask(url, document)
            assert status == 200, said
            np.testing.assert_allclose(said["predictions"], wanted, rtol=1e-5, atol=1e-6)
        frame = {"dataframe_split": {"columns": ["image"], "data": [[0.0]]}}
        assert ask(url, frame)[0] == 400
        status, said = ask(url, {"inputs": {"image": [[0.0] * 3]}})
        assert status == 400
        assert "Shape of input (1, 3) does not match expected shape (-1, 20)" in said


def test_mlflow_predict_runs_a_model(deployed, images, tmp_path):
    uri, wanted = deployed
    out = tmp_path / "out.json"
    mlflow.models.predict(uri, input_data={"image": images}, env_manager="local", output_path=out)
    said = json.loads(out.read_text())["predictions"]
    np.testing.assert_allclose(said, wanted, rtol=1e-5, atol=1e-6)
