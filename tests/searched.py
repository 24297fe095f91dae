"""A store with a finished search of a tiny model in it, promoted for two targets."""

import json

import numpy as np
import onnx
import yaml
from click.testing import CliRunner

from mlflow_compress.cli.main import cli
from tests.tiny import ROWS, tiny_model

NAME = "tiny-edge"
SHARED = [{"share": {"clusters": 16}}]
RECIPES = [SHARED, [{"prune": {"sparsity": 0.5}}, *SHARED], [{"prune": {"sparsity": 0.9}}]]
TARGETS = [
    {"name": "device", "accuracy": {"max_drop": 0.1}},
    {"name": "kiosk", "accuracy": {"max_drop": 0.9}, "limits": {"size": "2kB"}},
]


def search(folder, store):
    """Search and promote in ``folder``; the records go to ``store``."""
    model = tiny_model()
    onnx.save(model, folder / "tiny.onnx")
    x = np.random.default_rng(1).normal(size=(ROWS, 16)).astype(np.float32)
    w1, w2 = (onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer)
    np.savez(folder / "rows.npz", x=x, labels=(np.maximum(x @ w1, 0) @ w2).argmax(axis=1))
    config = {
        "source": "tiny.onnx",
        "tracking_uri": store,
        "register_as": NAME,
        "experiment": NAME,
        "data": {"evaluation": "rows.npz", "calibration": {"path": "rows.npz", "rows": 40}},
        "recipes": RECIPES,
        "search": {"latency_rounds": 2, "workers": 1},
        "targets": TARGETS,
    }
    path = folder / "compress.yaml"
    path.write_text(yaml.safe_dump(config))
    done = CliRunner().invoke(cli, ["run", str(path)], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return json.dumps(config)
