"""So many rows go into a call that what the model computes of them has room."""

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from mlflow_compress import measure
from mlflow_compress.measure import Dataset
from mlflow_compress.records import Layout
from mlflow_compress.rows import Ragged, Rows, bytes_of_values, most_rows, room
from mlflow_compress.techniques import Context
from mlflow_compress.techniques.graph.running import as_rows, batches
from mlflow_compress.techniques.prune import PruneSettings
from mlflow_compress.techniques.prune.onnx import prune

CHANNELS, SAMPLES = 16, 500


def sound(rows="n", samples="t"):
    """One channel of sound in, sixteen between, as wide a reshape, four numbers out."""
    rng = np.random.default_rng(0)
    weights = {"w": (CHANNELS, 1, 5), "m": (CHANNELS, 4)}
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], pads=[2, 2]),
        helper.make_node("Shape", ["c"], ["size"]),
        helper.make_node("Reshape", ["c", "size"], ["again"]),
        helper.make_node("ReduceMean", ["again"], ["p"], axes=[2], keepdims=0),
        helper.make_node("MatMul", ["p", "m"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "sound",
        [helper.make_tensor_value_info("x", 1, [rows, 1, samples])],
        [helper.make_tensor_value_info("y", 1, [rows, 4])],
        [
            numpy_helper.from_array(rng.normal(size=shape).astype(np.float32), name)
            for name, shape in weights.items()
        ],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.fixture
def heard():
    return np.random.default_rng(1).normal(size=(20, 1, SAMPLES)).astype(np.float32)


def test_what_is_computed_counts_not_what_is_given(heard):
    taken = bytes_of_values(sound(), Rows({"x": heard}))
    assert taken["x"] == 4 * SAMPLES
    assert taken["c"] == taken["again"] == 4 * SAMPLES * CHANNELS
    assert taken["y"] == 16


def test_the_longest_row_counts_where_rows_differ(heard):
    rows = Ragged([heard[0, :, :9], heard[1], heard[2, :, :30]])
    assert bytes_of_values(sound(), Rows({"x": rows}))["c"] == 4 * SAMPLES * CHANNELS


def test_a_graph_that_shapes_say_nothing_of_counts_by_its_inputs(heard):
    model = sound()
    model.graph.node[0].attribute.add(name="strides", type=onnx.AttributeProto.STRING)
    assert bytes_of_values(model, Rows({"x": heard}))["x"] == 4 * SAMPLES


def test_a_graph_without_inputs_or_shapes_takes_no_room(heard):
    nothing = onnx.ModelProto(ir_version=8)
    nothing.graph.name = "nothing"
    assert most_rows(nothing, Rows({"x": heard}).only([])) == room.ROOM


@pytest.mark.parametrize(("bytes_", "expected"), [(1, 1), (3 * 32_000, 3), (1 << 26, 2097)])
def test_as_many_rows_as_have_room(heard, monkeypatch, bytes_, expected):
    monkeypatch.setattr(room, "ROOM", bytes_)
    assert most_rows(sound(), Rows({"x": heard})) == expected


def test_a_fixed_batch_stays(heard):
    assert most_rows(sound(rows=20), Rows({"x": heard}, layout=Layout(batch=20))) is None


class Counting:
    """A session that says how many rows its calls had."""

    def __init__(self, session):
        self._session, self.rows = session, []
        self.get_inputs, self.get_outputs = session.get_inputs, session.get_outputs

    def run(self, names, feed):
        self.rows.append(len(feed["x"]))
        return self._session.run(names, feed)


def test_measuring_runs_no_more_rows_than_have_room(heard, monkeypatch):
    monkeypatch.setattr(room, "ROOM", 3 * 32_000)
    fitted = measure.fit_rows(sound(), Dataset({"x": heard}), Dataset({"x": heard[:10]}))
    session = Counting(measure.open_session(sound()))
    outputs = measure.run(session, fitted.evaluation)["y"]
    assert max(session.rows) == 3
    assert sum(session.rows) == len(outputs) == 20
    assert fitted.calibration.fed.per_call(64) == 3
    expected = measure.run(measure.open_session(sound()), Dataset({"x": heard}))["y"]
    np.testing.assert_allclose(outputs, expected, rtol=1e-5, atol=1e-6)


def test_techniques_run_no_more_rows_than_have_room(heard, monkeypatch):
    monkeypatch.setattr(room, "ROOM", 2 * 32_000)
    sizes = [len(feed["x"]) for feed in batches(sound(), {"x": heard})]
    assert sizes == [2] * 10
    assert as_rows(sound(), as_rows(sound(), {"x": heard})).per_call(32) == 2  # handed on


def test_layers_are_refitted_in_such_calls(heard, monkeypatch):
    monkeypatch.setattr(room, "ROOM", 2 * 32_000)
    sizes = []
    fed = "mlflow_compress.techniques.fitting.least_squares.Stream"

    class Seen:
        def __init__(self, model, given):
            sizes.extend(len(feed["x"]) for feed in given)
            raise InterruptedError

    monkeypatch.setattr(fed, Seen)
    with pytest.raises(InterruptedError):
        prune(sound(), PruneSettings(sparsity=0.5, repair=True, steps=1), Context({"x": heard}))
    assert sizes == [2] * 10
