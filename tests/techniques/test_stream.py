import numpy as np
import onnx
import pytest
from onnx import helper

from mlflow_compress.techniques import Context
from mlflow_compress.techniques.fitting import stream as module
from mlflow_compress.techniques.fitting.least_squares import tapped
from mlflow_compress.techniques.fitting.stream import Stream
from mlflow_compress.techniques.graph.walk import clone, initializers, set_initializer
from mlflow_compress.techniques.prune import PruneSettings
from mlflow_compress.techniques.prune.onnx import prune


def batches(rows, size=32):
    (array,) = rows.values()
    return [{"x": array[i : i + size]} for i in range(0, len(array), size)]


@pytest.mark.parametrize("budget", [0, 1 << 29])
def test_values_are_those_of_whole_runs(convnet, rows, evaluate, monkeypatch, budget):
    monkeypatch.setattr(module, "_BUDGET", budget)
    stream = Stream(convnet, batches(rows))
    for name in ("x", "c", "f", "c", "h", "a"):
        expected = rows["x"] if name == "x" else evaluate(tapped(convnet, [name]), rows)
        found = np.concatenate(list(stream.values(name)))
        np.testing.assert_allclose(found, expected, atol=1e-5)


def test_layers_may_change_before_what_depends_on_them_is_asked_for(convnet, rows, evaluate):
    model = clone(convnet)
    stream = Stream(model, batches(rows))
    list(stream.values("c"))
    set_initializer(initializers(model)["c2.w"], np.zeros((16, 8, 3, 3)))
    found = np.concatenate(list(stream.values("h")))
    np.testing.assert_allclose(found, evaluate(tapped(model, ["h"]), rows), atol=1e-5)


def test_only_what_is_new_is_run(convnet, rows, monkeypatch):
    parts = []
    opened = module.session
    monkeypatch.setattr(module, "session", lambda m, **kw: parts.append(m) or opened(m, **kw))
    stream = Stream(convnet, batches(rows))
    for name in ("c", "f", "h", "c"):
        list(stream.values(name))
    ops = [[node.op_type for node in part.graph.node] for part in parts]
    assert ops == [["Conv", "Relu", "MaxPool"], ["Conv", "Relu", "Flatten"], ["Gemm", "Relu"]]


def test_what_follows_a_refitted_lstm_sees_its_new_outputs(build, rng, monkeypatch):
    arrays = {
        "w": rng.normal(0, 0.4, (1, 32, 6)).astype(np.float32),
        "r": rng.normal(0, 0.3, (1, 32, 8)).astype(np.float32),
        "m": rng.normal(size=(8, 16)).astype(np.float32),
    }
    nodes = [
        helper.make_node("LSTM", ["x", "w", "r"], ["h"], hidden_size=8),
        helper.make_node("MatMul", ["h", "m"], ["y"]),
    ]
    model = build(nodes, arrays, [("x", [5, "n", 6])], [("y", [5, 1, "n", 16])])
    rows = {"x": rng.normal(size=(5, 40, 6)).astype(np.float32)}
    parts = []
    opened = module.session
    monkeypatch.setattr(module, "session", lambda m, **kw: parts.append(m) or opened(m, **kw))
    prune(model, PruneSettings(sparsity=0.5, repair=True, steps=1), Context(rows))
    lstms = [
        onnx.numpy_helper.to_array(initializers(part)["r"])
        for part in parts
        if any(node.op_type == "LSTM" for node in part.graph.node)
    ]
    assert len(lstms) == 3  # dense, pruned, and pruned with both matrices refitted
    assert not np.array_equal(lstms[1], lstms[2])


def test_what_is_too_large_to_be_kept_is_made_batch_by_batch(convnet, rows, monkeypatch):
    calls = []
    ran = module.run
    monkeypatch.setattr(module, "run", lambda *given: calls.append(given[1]) or ran(*given))
    monkeypatch.setattr(module, "_BUDGET", 1000)
    fed = batches(rows)
    stream = Stream(convnet, fed)
    next(stream.values("c"))
    assert len(calls) == 1
    for _ in range(2):
        calls.clear()
        assert len(list(stream.values("c"))) == len(calls) == len(fed)
