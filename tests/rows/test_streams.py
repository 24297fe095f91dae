"""Streams: the state of one call goes into the next, calibrated and judged in order."""

import numpy as np
import onnx
import onnxruntime
import pytest
from click.testing import CliRunner

from mlflow_compress.cli.main import cli
from mlflow_compress.errors import DataError
from mlflow_compress.measure import dataset_of, fit_rows, held_back, open_session, run
from mlflow_compress.records import InputSpec
from mlflow_compress.rows import Ragged
from mlflow_compress.techniques import normalize
from tests.rows import made_models as made

SPECS = {"x": InputSpec(axis=1), "h0": InputSpec(axis=1, state_of="hn")}
X = np.random.default_rng(2).normal(size=(1, 60, 6)).astype(np.float32)
ONES = np.ones((1, 1, 12), np.float32)


def in_order(model, streams, begin=0 * ONES):
    """Run the rows one by one as a person would, and return outputs, and states that went in."""
    session = onnxruntime.InferenceSession(model.SerializeToString())
    size = session.get_inputs()[0].shape[1]
    copies = size if isinstance(size, int) else 1
    states, outputs, seen = {}, [], []
    for row, stream in enumerate(streams):
        state = states.get(stream, begin)
        seen.append(state[:, 0])
        given = {"x": X[:, [row] * copies], "h0": state.repeat(copies, 1)}
        y, after = session.run(["y", "hn"], given)
        states[stream] = after[:, :1]
        outputs.append(y[0])
    return np.array(outputs), np.array(seen)


STREAMS = {
    "one": ({}, None, [0] * 60),
    "every 20 rows": ({}, 20, [i // 20 for i in range(60)]),
    "named, of different lengths": (
        {"stream": np.array(["a"] * 10 + ["b"] * 31 + ["c"] * 19)},
        None,
        [0] * 10 + [1] * 31 + [2] * 19,
    ),
    "between each other": ({"stream": np.arange(60) % 3}, None, [i % 3 for i in range(60)]),
}


@pytest.mark.parametrize("batch", ["n", 1, 2])
@pytest.mark.parametrize("name", STREAMS)
def test_states_go_from_row_to_row_of_their_stream(name, batch):
    more, every, streams = STREAMS[name]
    model = made.gru(batch=batch)
    rows = dataset_of({"x": X, **more}, "rows", SPECS)
    fitted = fit_rows(normalize(model), rows, rows, specs=SPECS, stream=every)
    expected, states = in_order(model, streams)
    outputs = run(open_session(model), fitted.evaluation)
    np.testing.assert_allclose(outputs["y"], expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(fitted.calibration.inputs["h0"], states, rtol=1e-4, atol=1e-5)
    assert fitted.calibration.stream is None
    plain = run(open_session(model), fitted.calibration)
    np.testing.assert_allclose(plain["y"], expected, rtol=1e-4, atol=1e-5)


def test_a_state_that_is_given_begins_each_stream():
    model = made.gru()
    rows = dataset_of({"x": X, "h0": ONES}, "rows", SPECS)
    fitted = fit_rows(normalize(model), rows, specs=SPECS, stream=30)
    outputs = run(open_session(model), fitted.evaluation)
    expected, _ = in_order(model, [i // 30 for i in range(60)], ONES)
    np.testing.assert_allclose(outputs["y"], expected, rtol=1e-4, atol=1e-5)


def test_a_variant_runs_with_its_own_states():
    source, variant = made.gru(), made.gru()
    tensor = next(t for t in variant.graph.initializer if t.name == "r")
    tensor.CopyFrom(onnx.numpy_helper.from_array(0.5 * onnx.numpy_helper.to_array(tensor), "r"))
    rows = dataset_of({"x": X}, "rows", SPECS)
    fitted = fit_rows(normalize(source), rows, specs=SPECS)
    outputs = run(open_session(variant), fitted.evaluation)
    np.testing.assert_allclose(outputs["y"], in_order(variant, [0] * 60)[0], rtol=1e-4, atol=1e-5)


def test_what_is_held_back_of_streams_is_whole_streams_or_their_ends():
    def rows(stream):
        return dataset_of({"x": X, "stream": np.array(stream)}, "rows", SPECS)

    many = rows([i // 5 for i in range(60)])
    assert {i // 5 for i in held_back(many, 4)} == {3, 7, 11}
    assert held_back(rows([0] * 60), 4).tolist() == list(range(45, 60))
    assert held_back(rows([0] * 40 + [1] * 20), 4).tolist() == [*range(30, 40), *range(55, 60)]


def test_the_digest_of_a_stream_is_its_own():
    source = normalize(made.gru())
    data = dataset_of({"x": X}, "rows", SPECS)
    zeros = {**SPECS, "h0": InputSpec(axis=1, value=0)}
    digests = {
        fit_rows(source, data, specs=SPECS).evaluation.digest,
        fit_rows(source, data, specs=SPECS, stream=20).evaluation.digest,
        fit_rows(source, data, specs=zeros).evaluation.digest,
    }
    assert len(digests) == 3


@pytest.mark.parametrize(("more", "every"), [({"stream": np.arange(60)}, None), ({}, 5)])
def test_streams_without_a_state_are_refused(more, every):
    specs = {"h0": InputSpec(axis=1, value=0)}
    rows = dataset_of({"x": X, **more}, "rows", specs)
    with pytest.raises(DataError, match="there are streams, and no input is said to be a state"):
        fit_rows(normalize(made.gru()), rows, specs=specs, stream=every)


def test_an_output_that_is_not_there_is_named():
    specs = {**SPECS, "h0": InputSpec(axis=1, state_of="h")}
    with pytest.raises(DataError, match="the model has no output 'h'; it gives y, hn"):
        fit_rows(normalize(made.gru()), dataset_of({"x": X}, "rows", specs), specs=specs)


def test_sequences_of_different_lengths_make_a_stream_too():
    model = made.gru(steps="t")
    parts = [X[0, 3 * i : 3 * i + 2 + i % 2] for i in range(20)]
    rows = dataset_of({"x": parts}, "rows", SPECS)
    fitted = fit_rows(normalize(model), rows, specs=SPECS)
    outputs = run(open_session(model), fitted.evaluation)
    session = onnxruntime.InferenceSession(model.SerializeToString())
    state = 0 * ONES
    for part, given in zip(parts, outputs["y"], strict=True):
        y, state = session.run(["y", "hn"], {"x": part[:, None], "h0": state})
        np.testing.assert_allclose(given, y[0], rtol=1e-4, atol=1e-5)
    assert isinstance(fitted.evaluation.inputs["x"], Ragged)


def test_compress_takes_streams(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    onnx.save(made.gru(), "gru.onnx")
    np.savez("rows.npz", x=X, stream=np.arange(60) // 10)
    words = "compress gru.onnx -o out.onnx --calibration rows.npz --effort 1 --min-agreement 0.8"
    asked = CliRunner().invoke(cli, words.split(), catch_exceptions=False)
    assert asked.exit_code == 2
    assert "\ndata:\n  inputs:\n    h0: {axis: 1, state_of: hn}\n" in asked.stderr
    assert "--input 'h0=axis:1,state_of:hn'" in asked.stderr
    told = [*words.split(), "--input", "h0=axis:1,state_of:hn", "--input", "x=axis:1"]
    done = CliRunner().invoke(cli, told, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    # of six streams one confirms, and none is cut in two
    assert "\nconfirmed on 10 rows that had no part in making or choosing it:\n" in done.stdout
    source, made_smaller = (onnx.load(name) for name in ("gru.onnx", "out.onnx"))
    streams = [i // 10 for i in range(60)]
    one, two = (in_order(model, streams)[0].argmax(1) for model in (source, made_smaller))
    assert (one == two).mean() > 0.7
