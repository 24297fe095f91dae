import numpy as np
import pytest
from onnx import helper

from mlflow_compress.techniques.fitting.least_squares import tapped
from mlflow_compress.techniques.graph.layers import linear_layers


def products(model, layer, arrays, activation):
    """Multiply all rows of an activation with the layer's matrix: [groups, rows, outputs]."""
    weight = arrays(model)[layer.weight]
    chosen = layer.choose(activation, weight.shape, 10**9, np.random.default_rng(0))
    return layer.rows(activation, weight.shape, chosen) @ layer.matrix(weight).transpose(0, 2, 1)


@pytest.mark.parametrize(
    ("attributes", "shape", "kernel"),
    [
        ({}, (2, 4, 7, 9), (6, 4, 3, 2)),
        ({"strides": [2, 3], "pads": [1, 0, 2, 1]}, (2, 4, 7, 9), (6, 4, 3, 2)),
        ({"dilations": [2, 2], "pads": [2, 2, 2, 2]}, (2, 4, 7, 9), (6, 4, 3, 3)),
        ({"group": 2, "pads": [1, 1, 1, 1]}, (2, 4, 6, 6), (6, 2, 3, 3)),
        ({"group": 4}, (2, 4, 6, 6), (4, 1, 3, 3)),
        ({"auto_pad": "SAME_UPPER", "strides": [2, 2]}, (2, 4, 6, 7), (6, 4, 3, 2)),
        ({"auto_pad": "SAME_LOWER", "strides": [2, 2]}, (2, 4, 6, 7), (6, 4, 2, 2)),
        ({"auto_pad": "VALID"}, (2, 4, 6, 7), (6, 4, 3, 2)),
        ({"strides": [2]}, (2, 4, 11), (6, 4, 5)),
        ({}, (1, 4, 4, 5, 6), (6, 4, 2, 2, 2)),
    ],
)
def test_patches_times_the_matrix_is_the_convolution(
    build, rng, evaluate, arrays, attributes, shape, kernel
):
    x, w = (rng.normal(size=s).astype(np.float32) for s in (shape, kernel))
    model = build(
        [helper.make_node("Conv", ["x", "w"], ["y"], **attributes)],
        {"w": w},
        [("x", list(shape))],
        [("y", [None] * len(shape))],
    )
    (layer,) = linear_layers(model)
    made = products(model, layer, arrays, x)
    expected = np.moveaxis(evaluate(model, {"x": x}), 1, -1)
    got = made.transpose(1, 0, 2).reshape(expected.shape)
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-4)
    stored = layer.stored(layer.matrix(w), w.shape)
    np.testing.assert_array_equal(stored, w)


def test_a_transposed_convolution_is_its_contributions(build, rng, evaluate, arrays):
    x = rng.normal(size=(2, 4, 3, 3)).astype(np.float32)
    w = rng.normal(size=(4, 5, 2, 2)).astype(np.float32)
    node = helper.make_node("ConvTranspose", ["x", "w"], ["y"], strides=[2, 2], group=2)
    model = build([node], {"w": w}, [("x", [2, 4, 3, 3])], [("y", [2, 10, 6, 6])])
    (layer,) = linear_layers(model)
    made = products(model, layer, arrays, x)  # kernel = stride: contributions do not overlap
    tiles = made.reshape(2, 2, 3, 3, 5, 2, 2).transpose(1, 0, 4, 2, 5, 3, 6)
    expected = evaluate(model, {"x": x})
    np.testing.assert_allclose(tiles.reshape(expected.shape), expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(layer.stored(layer.matrix(w), w.shape), w)


def test_gemm_and_matmul_find_their_bias(convnet):
    layers = {layer.weight: layer for layer in linear_layers(convnet)}
    assert {name: layer.bias for name, layer in layers.items()} == {
        "c1.w": "c1.b",
        "c2.w": "c2.b",
        "f1.w": "f1.b",
        "f2.w": "f2.b",
    }


@pytest.mark.parametrize("transb", [0, 1])
def test_gemm_rows(build, rng, evaluate, arrays, transb):
    x = rng.normal(size=(5, 4)).astype(np.float32)
    w = rng.normal(size=(3, 4) if transb else (4, 3)).astype(np.float32)
    node = helper.make_node("Gemm", ["x", "w"], ["y"], transB=transb)
    model = build([node], {"w": w}, [("x", [5, 4])], [("y", [5, 3])])
    (layer,) = linear_layers(model)
    got = products(model, layer, arrays, x)[0]
    np.testing.assert_allclose(got, evaluate(model, {"x": x}), rtol=1e-5)
    np.testing.assert_array_equal(layer.stored(layer.matrix(w), w.shape), w)


@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
def test_the_rows_of_an_lstm_reproduce_its_states(build, rng, evaluate, arrays, direction):
    steps, batch, width, hidden = 5, 3, 4, 2
    dirs = 2 if direction == "bidirectional" else 1
    x = rng.normal(size=(steps, batch, width)).astype(np.float32)
    w = rng.normal(size=(dirs, 4 * hidden, width)).astype(np.float32)
    r = rng.normal(size=(dirs, 4 * hidden, hidden)).astype(np.float32)
    node = helper.make_node(
        "LSTM", ["x", "w", "r"], ["y", "", "c"], hidden_size=hidden, direction=direction
    )
    model = build(
        [node],
        {"w": w, "r": r},
        [("x", list(x.shape))],
        [("y", [steps, dirs, batch, hidden]), ("c", [dirs, batch, hidden])],
    )
    layers = {layer.weight: layer for layer in linear_layers(model)}
    y = evaluate(tapped(model, ["y"]), {"x": x})
    from_x = products(model, layers["w"], arrays, x).reshape(dirs, steps, batch, -1)
    from_h = products(model, layers["r"], arrays, y).reshape(dirs, steps - 1, batch, -1)
    for d in range(dirs):
        backwards = direction == "reverse" or d == 1
        inside = slice(0, -1) if backwards else slice(1, None)
        gates = from_x[d, inside] + from_h[d]
        i, o, f, c = np.split(gates, 4, axis=-1)
        cell = states(from_x[d], from_h[d], backwards)
        sigmoid = lambda z: 1 / (1 + np.exp(-z))  # noqa: E731
        np.testing.assert_allclose(
            sigmoid(o) * np.tanh(cell[inside]), y[inside, d], rtol=1e-4, atol=1e-5
        )
        assert i.shape == f.shape == c.shape


def states(from_x, from_h, backwards):
    """Unroll the LSTM's cell states from its gates' pre-activations."""
    steps = len(from_x)
    order = range(steps - 1, -1, -1) if backwards else range(steps)
    cell, out = np.zeros((*from_x.shape[1:2], from_x.shape[2] // 4)), {}
    for count, t in enumerate(order):
        gates = from_x[t].copy()
        if count:
            gates += from_h[t] if backwards else from_h[t - 1]
        i, _, f, c = np.split(gates, 4, axis=-1)
        sigmoid = lambda z: 1 / (1 + np.exp(-z))  # noqa: E731
        cell = sigmoid(f) * cell + sigmoid(i) * np.tanh(c)
        out[t] = cell
    return np.stack([out[t] for t in range(steps)])
