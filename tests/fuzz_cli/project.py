"""A project in which every command has something to do, made once and copied for each example."""

import shutil
import warnings
from pathlib import Path

import mlflow
import numpy as np
import onnx
import yaml
from click.testing import CliRunner
from mlflow import MlflowClient
from onnx import TensorProto, helper, numpy_helper

from mlflow_compress import packed
from mlflow_compress.cli.main import cli
from tests.nas.made import bars
from tests.tiny import labelled_rows, tiny_model

__all__ = ["CONFIGS", "MODELS", "ROWS", "make_project"]

MODELS = ("tiny.onnx", "conv.onnx", "branches.onnx", "outside.onnx", "compact.onnx",
          "portable.onnx")  # fmt: skip
ROWS = ("rows.npz", "unlabelled.npz", "images.npz")
CONFIGS = ("compress.yaml", "registered.yaml", "techniques.yaml", "space.yaml", "paths.yaml",
           "device.yaml")  # fmt: skip

_FUNCTIONS = {
    "metric.py": (
        "import numpy as np\n"
        "def share(labels, outputs):\n    return float((outputs.argmax(1) == labels).mean())\n"
        "def broken(labels, outputs):\n    raise RuntimeError('a\\nb')\n"
        "def text(labels, outputs):\n    return 'good'\n"
        "def many(labels, outputs):\n    return np.zeros(3)\n"
    ),
    "rows.py": (
        "import numpy as np\n"
        "def rows():\n    return {'x': np.ones((40, 16), np.float32)}\n"
        "def none():\n    return None\n"
        "def broken():\n    raise KeyError\n"
    ),
}


def make_project(folder: Path) -> None:
    """Fill an empty folder: models, rows, configurations, a registry with a finished search."""
    _models(folder)
    _rows(folder)
    for name, text in _FUNCTIONS.items():
        (folder / name).write_text(text)
    store = f"sqlite:///{folder}/mlflow.db"
    configs = _configs(store)
    for name, data in configs.items():
        (folder / name).write_text(yaml.safe_dump(data, sort_keys=False))
    client = MlflowClient(store)
    experiment = client.create_experiment("toy", str(folder / "artifacts"))
    client.create_experiment("toy-edge", str(folder / "artifacts"))
    mlflow.set_tracking_uri(store)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with mlflow.start_run(experiment_id=experiment):
                model = onnx.load(folder / "tiny.onnx")
                mlflow.onnx.log_model(model, name="model", registered_model_name="toy")
        client.set_registered_model_alias("toy", "champion", "1")
    finally:
        mlflow.set_tracking_uri(None)
    done = CliRunner().invoke(cli, ["run", str(folder / "registered.yaml")], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    shutil.rmtree(folder / "mlruns", ignore_errors=True)


def _models(folder: Path) -> None:
    tiny = tiny_model()
    tiny.metadata_props.add(key="names", value="a,b,c,d")
    onnx.save(tiny, folder / "tiny.onnx")
    onnx.save(_conv(), folder / "conv.onnx")
    onnx.save(_branches(), folder / "branches.onnx")
    onnx.save(packed.pack(tiny, "compact"), folder / "compact.onnx")
    onnx.save(packed.pack(tiny, "portable"), folder / "portable.onnx")
    onnx.save(tiny_model(), folder / "outside.onnx", save_as_external_data=True,
              location="outside.bin", size_threshold=0)  # fmt: skip


def _conv() -> onnx.ModelProto:
    rng = np.random.default_rng(3)
    weights = {
        "k1": rng.normal(size=(4, 1, 3, 3)).astype(np.float32),
        "b1": rng.normal(size=4).astype(np.float32),
        "k2": rng.normal(size=(6, 4, 3, 3)).astype(np.float32) / 6,
        "w": rng.normal(size=(6, 4)).astype(np.float32),
        "shape": np.array([0, -1], np.int64),
    }
    nodes = [
        helper.make_node("Conv", ["image", "k1", "b1"], ["c1"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c1"], ["r1"]),
        helper.make_node("Conv", ["r1", "k2"], ["c2"]),
        helper.make_node("GlobalAveragePool", ["c2"], ["p"]),
        helper.make_node("Reshape", ["p", "shape"], ["f"]),
        helper.make_node("Gemm", ["f", "w"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["classes"]),
    ]
    return _model(
        nodes, "image", ["N", 1, 12, 12], [("classes", TensorProto.FLOAT, ["N", 4])], weights
    )


def _branches() -> onnx.ModelProto:
    """Two branches with names of their own, a loop, text, and outputs of several types."""
    rng = np.random.default_rng(4)

    def branch(name: str, scale: float) -> onnx.GraphProto:
        weight = numpy_helper.from_array((rng.normal(size=(16, 4)) * scale).astype("f4"), "local")
        node = helper.make_node("MatMul", ["x", "local"], ["out"])
        out = helper.make_tensor_value_info("out", TensorProto.FLOAT, ["N", 4])
        return helper.make_graph([node], name, [], [out], [weight])

    nodes = [
        helper.make_node("ReduceMean", ["x"], ["mean"], keepdims=0),
        helper.make_node("Greater", ["mean", "zero"], ["condition"]),
        helper.make_node("If", ["condition"], ["y"], then_branch=branch("a", 1.0),
                         else_branch=branch("b", 0.3)),
        helper.make_node("ArgMax", ["y"], ["index"], axis=1, keepdims=0),
        helper.make_node("Constant", [], ["name"], value_strings=["one", "two"]),
        helper.make_node("Split", ["y", "halves"], ["left", "right"], axis=1),
    ]  # fmt: skip
    outputs = [
        ("y", TensorProto.FLOAT, ["N", 4]),
        ("index", TensorProto.INT64, ["N"]),
        ("right", TensorProto.FLOAT, ["N", 2]),
    ]
    weights = {"zero": np.float32(0), "halves": np.array([2, 2], np.int64)}
    return _model(nodes, "x", ["N", 16], outputs, weights)


def _model(nodes, name, shape, outputs, weights) -> onnx.ModelProto:  # type: ignore[no-untyped-def]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(*one) for one in outputs],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def _rows(folder: Path) -> None:
    x, labels = labelled_rows(tiny_model())
    np.savez(folder / "rows.npz", x=x, labels=labels)
    np.savez(folder / "unlabelled.npz", x=x)
    images, labels = bars(60)
    np.savez(folder / "images.npz", image=images, labels=labels)
    header = ",".join([*(f"x{at}" for at in range(16)), "labels"])
    lines = [",".join(map(str, [*row, label])) for row, label in zip(x, labels, strict=False)]
    (folder / "rows.csv").write_text("\n".join([header, *lines]))


def _configs(store: str) -> dict[str, object]:
    targets = [
        {"name": "device", "accuracy": {"max_drop": 0.2}},
        {"name": "kiosk", "accuracy": {"max_drop": 0.4}, "limits": {"size": "20kB"}},
    ]
    small = {"trials": 2, "workers": 1, "executor": "inline", "latency_rounds": 0}
    registered = {
        "source": "models:/toy@champion",
        "register_as": "toy-edge",
        "experiment": "toy-edge",
        "tracking_uri": store,
        "data": {"evaluation": "rows.npz", "calibration": {"path": "rows.npz", "rows": 40}},
        "recipes": [[{"share": {"clusters": 16}}], [{"prune": {"sparsity": 0.5}}]],
        "search": small,
        "targets": targets,
    }
    file = {
        **registered,
        "source": "tiny.onnx",
        "register_as": "file-edge",
        "recipe": [
            {"prune": {"sparsity": {"choices": [0.3, 0.5]}}},
            {"pack": {"profile": "compact"}},
        ],
        "data": {
            "evaluation": {"path": "rows.npz", "rows": 60, "name": "rows"},
            "metric": {"name": "accuracy", "output": "y"},
            "outputs": {"y": {"kind": "classes"}},
            "labels": "data",
        },
        "search": {**small, "strategy": "random", "seed": 3, "objectives": ["rate", "accuracy"],
                   "cache": "1MB", "screen": True, "minutes": 1},
    }  # fmt: skip
    del file["recipes"]
    techniques = {
        **registered,
        "recipes": [
            [{"fold": {}}, {"quantize": {"method": "minmax", "rows": 20}}, "trim"],
            [{"shrink": {"ratio": 0.25}}, {"entropy_share": {"bits": 3.0, "rows": 20}}],
            [{"weight_only": {"bits": 4, "group_size": 8}}, {"pack": {"profile": "portable"}}],
        ],
        "search": {**small, "trials": 3, "strategy": "manual"},
    }
    rows = {"train": "images.npz", "evaluation": {"path": "images.npz", "rows": 20}}
    stages = [{"channels": 8, "depth": [1, 2], "kernel": [3], "width": [1]}]
    nas = {"name": "bars", "tracking_uri": store, "data": rows}
    return {
        "compress.yaml": file,
        "registered.yaml": registered,
        "techniques.yaml": techniques,
        "space.yaml": {
            **nas,
            "space": {"resolutions": [8, 12], "stem": 8, "head": 8, "stages": stages},
            "train": {"full": 0.1, "kernel": 0.1, "depth": 0.1, "width": 0.1, "batch": 32,
                      "checkpoint_folder": "checkpoints"},
            "targets": [{"name": "desk", "objective": "accuracy"}],
        },
        "paths.yaml": {
            **nas,
            "name": "paths",
            "space": {"stem": {"channels": 8}, "stages": [{"channels": 8, "layers": 1}],
                      "candidates": {"regular": [3], "separable": [3]}},
            "search": {"epochs": 1, "retrain_epochs": 1},
            "targets": [{"name": "desk", "objective": "accuracy"}],
        },
        "device.yaml": {
            "extends": "raspberry-pi-4",
            "name": "device",
            "limits": {"size": "2MB", "latency_p50": "16ms", "memory": "256MB"},
            "accuracy": {"max_drop": 0.2, "confidence": 0.95},
            "execution": {"cores": 1, "memory": "1GB", "threads": 1},
            "objective": "size",
        },
    }  # fmt: skip
