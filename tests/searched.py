"""A store with a finished search of a tiny model in it, promoted for two targets."""

import json

import numpy as np
import onnx
import yaml
from click.testing import CliRunner

from mlflow_compress.cli.main import cli
from tests.tiny import labelled_rows, tiny_model

NAME = "tiny-edge"
SHARED = [{"share": {"clusters": 16}}]
RECIPES = [SHARED, [{"prune": {"sparsity": 0.5}}, *SHARED], [{"prune": {"sparsity": 0.9}}]]
TARGETS = [
    {"name": "device", "accuracy": {"max_drop": 0.2}},
    {"name": "kiosk", "accuracy": {"max_drop": 0.4}, "limits": {"size": "2kB"}},
]


def search(folder, store):
    """Search and promote in ``folder``; the records go to ``store``."""
    model = tiny_model()
    onnx.save(model, folder / "tiny.onnx")
    x, labels = labelled_rows(model)
    np.savez(folder / "rows.npz", x=x, labels=labels)
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
