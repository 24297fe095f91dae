"""A real MLflow store for every test that wants one, and records to fill it with."""

import shutil
import signal

import mlflow
import numpy as np
import onnx
import pytest
from mlflow import MlflowClient

from mlflow_compress import packed
from mlflow_compress.records import (
    Accuracy,
    DatasetRef,
    Interval,
    Latency,
    Recipe,
    Report,
    Step,
    Variant,
)
from tests.durations import slow
from tests.tiny import Project, labelled_rows, network, tiny_model

ROWS = DatasetRef("digits", "ab" * 32, 1000)


def pytest_configure():
    # A shell without job control starts what runs in its background with Ctrl-C ignored, and so
    # would every process of the tests be; a handler is not passed on, being ignored is.
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_addoption(parser):
    parser.addoption("--fast", action="store_true", help="leave out the files of tests/slow.txt")


def pytest_ignore_collect(collection_path, config):
    return True if config.getoption("--fast") and collection_path in slow() else None


def pytest_terminal_summary(terminalreporter):
    terminalreporter.write_line(f"packed.backend: {packed.backend}")


@pytest.fixture(scope="session")
def migrated_database(tmp_path_factory):
    """An empty MLflow database; making its tables takes seconds, copying it none."""
    path = tmp_path_factory.mktemp("store") / "mlflow.db"
    MlflowClient(f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture
def store_uri(migrated_database, tmp_path, monkeypatch):
    """The URI of a fresh store, and nothing of MLflow's global state left behind."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "mlflow.db"
    shutil.copy(migrated_database, path)
    yield f"sqlite:///{path}"
    mlflow.set_tracking_uri(None)


@pytest.fixture
def client(store_uri):
    return MlflowClient(store_uri)


@pytest.fixture
def make_variant():
    """Return a function that makes variants; every number can be chosen."""

    def make(
        key="key1",
        *,
        size=20_000,
        accuracy=0.95,
        source_accuracy=0.95,
        ratio=(0.9, 1.1),
        rows=ROWS,
        profile="compact",
        version=None,
        source="models:/lenet/1",
        quarantined=(),
        latency=True,
        **report,
    ):
        drop = 0.0 if accuracy is None else source_accuracy - accuracy
        middle = sum(ratio) / 2
        return Variant(
            key=key,
            recipe=Recipe((Step("prune", {"sparsity": 0.9}),), profile),
            report=Report(
                **{
                    "size_bytes": size,
                    "source_bytes": 1_000_000,
                    "rate": 1_000_000 / size,
                    "entropy": 1.5,
                    "sha256": "cd" * 32,
                    "accuracy": None
                    if accuracy is None
                    else Accuracy(
                        "accuracy",
                        accuracy,
                        source_accuracy,
                        drop,
                        Interval(drop - 0.005, drop + 0.005),
                        rows,
                    ),
                    "latency": latency
                    if isinstance(latency, tuple)
                    else (
                        Latency("local", 1, 1, middle, middle * 2, 1.0, middle, Interval(*ratio)),
                    )
                    if latency
                    else (),
                }
                | report
            ),
            source=source,
            version=version,
            quarantined=frozenset(quarantined),
        )

    return make


@pytest.fixture
def log_variant(client, tmp_path):
    """Return a function that gives a variant a run and a logged model in the store."""
    experiment = client.create_experiment("search", str(tmp_path / "artifacts"))

    def log(variant):
        from dataclasses import replace

        run = client.create_run(experiment)
        model = client.create_logged_model(experiment, "variant", run.info.run_id)
        client.finalize_logged_model(model.model_id, "READY")
        client.set_terminated(run.info.run_id)
        uri = f"models:/{model.model_id}"
        return replace(variant, model_uri=uri, run_id=run.info.run_id)

    return log


@pytest.fixture
def project(store_uri, tmp_path):
    """A folder with a model, its rows, labels that the model gets right, and a config."""
    model = tiny_model()
    onnx.save(model, tmp_path / "tiny.onnx")
    x, labels = labelled_rows(model)
    np.savez(tmp_path / "rows.npz", x=x, labels=labels)
    np.savez(tmp_path / "unlabelled.npz", x=x)
    config = {
        "source": "tiny.onnx",
        "tracking_uri": store_uri,
        "data": {"evaluation": "rows.npz"},
        "recipe": [{"share": {"clusters": 16}}],
        "search": {"latency_rounds": 2, "workers": 1},
        "targets": [{"name": "device", "accuracy": {"max_drop": 0.25}}],
    }
    return Project(tmp_path, config, MlflowClient(store_uri))


@pytest.fixture
def onnx_model():
    return network()


@pytest.fixture
def images():
    return np.random.default_rng(1).normal(size=(6, 20)).astype(np.float32)


@pytest.fixture
def packed_file(tmp_path, onnx_model):
    """Return a function that writes the network in a profile and returns the path."""

    def write(profile="compact", outputs=("logits",), name=None):
        path = tmp_path / (name or f"{profile}.onnx")
        model = network(outputs)
        if profile == "plain":
            onnx.save(model, path)
        else:
            packed.save(packed.pack(model, profile), path)
        return path

    return write
