"""A small model with rows that it gets right, and a project folder around it."""

import numpy as np
import yaml
from click.testing import CliRunner
from onnx import TensorProto, helper, numpy_helper

from mlflow_compress.cli.main import cli
from mlflow_compress.records import Output

ROWS = 80

CLASSES = (Output("y", "classes", "logits", 1, decision="y"),)
"""What the output of the model is."""


def tiny_model():
    """Return a classifier of 16 features into 4 classes with random weights."""
    rng = np.random.default_rng(0)
    weights = {
        "w1": rng.normal(size=(16, 64)).astype(np.float32),
        "w2": rng.normal(size=(64, 4)).astype(np.float32),
    }
    nodes = [
        helper.make_node("MatMul", ["x", "w1"], ["h"]),
        helper.make_node("Relu", ["h"], ["r"]),
        helper.make_node("MatMul", ["r", "w2"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 16])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 4])],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def labelled_rows(model, rows=ROWS):
    """Return rows for :func:`tiny_model`, and the labels that it gives them."""
    x = np.random.default_rng(1).normal(size=(rows, 16)).astype(np.float32)
    w1, w2 = (numpy_helper.to_array(tensor) for tensor in model.graph.initializer)
    return x, (np.maximum(x @ w1, 0) @ w2).argmax(axis=1)


class Project:
    def __init__(self, folder, config, client):
        self.folder, self.config, self.client = folder, config, client

    def run(self, *args, **changes):
        (self.folder / "compress.yaml").write_text(
            yaml.safe_dump({k: v for k, v in (self.config | changes).items() if v is not None})
        )
        path = str(self.folder / "compress.yaml")
        return CliRunner().invoke(cli, ["run", path, *args], catch_exceptions=False)

    def refuses(self, exit_code, *words, args=(), **changes):
        """Run, and check the exit code, the one line on stderr, and an untouched registry."""
        done = self.run(*args, **changes)
        assert done.exit_code == exit_code, done.output
        line = done.stderr.strip().splitlines()[-1]
        assert line.startswith("error: ")
        assert done.stdout == ""
        for word in words:
            assert word in line, line
        assert self.client.search_registered_models() == []
        experiments = [one.experiment_id for one in self.client.search_experiments()]
        runs = self.client.search_runs(experiments)
        assert [run for run in runs if run.info.status == "RUNNING"] == []


def network(outputs=("logits",)):
    """One matrix of 20 by 10, which may say its classes too."""
    rng = np.random.default_rng(0)
    weights = numpy_helper.from_array(rng.normal(size=(20, 10)).astype(np.float32), "weights")
    nodes = [helper.make_node("MatMul", ["image", "weights"], ["logits"])]
    if "classes" in outputs:
        nodes.append(helper.make_node("ArgMax", ["logits"], ["classes"], axis=1, keepdims=0))
    infos = {
        "logits": helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["rows", 10]),
        "classes": helper.make_tensor_value_info("classes", TensorProto.INT64, ["rows"]),
    }
    graph = helper.make_graph(
        nodes,
        "network",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["rows", 20])],
        [infos[name] for name in outputs],
        [weights],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
