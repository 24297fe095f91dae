"""Sources of ``benchmarks/promise.py``: small networks of several kinds, trained in seconds.

Every source comes with rows that were not trained on, out of which calibration rows are drawn, and
with new rows that have no part in anything but the last look.
"""

import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from mlflow_compress.measure.idx import read_idx

CACHE = Path(tempfile.gettempdir()) / f"mlflow-compress-benchmarks-{os.getuid()}" / "promise"
NEW = 8_000
"""Rows of the last look: the measured share then is off by 0.1 points, not by 0.2 as of 2,000."""

POOL = 12_000
TRAIN = 16_000
TOKENS, LENGTH = 40, 24


@dataclass(frozen=True)
class Source:
    """A model and its rows.

    Attributes:
        name: of the model.
        kind: ``classes``, ``positions`` (of a sequence, a class each), ``values`` or ``embedding``.
        model: takes ``x``.
        inputs: [POOL + NEW, ...]; the last NEW are the new ones.
        labels: class numbers, or the values that were to be predicted; None for embeddings.
        is_probability: whether classes come as probabilities.
    """

    name: str
    kind: str
    model: onnx.ModelProto
    inputs: np.ndarray
    labels: np.ndarray | None
    is_probability: bool = False


@dataclass(frozen=True)
class _Plan:
    """How a source is made: rows, layers, loss and what comes after the last layer."""

    kind: str
    rows: Callable[[Path], tuple[np.ndarray, np.ndarray]]
    sizes: tuple[int, ...]
    loss: str
    last: str = ""
    layers: int = 0
    epochs: int = 6


def _digits(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """MNIST at 14 x 14, so that a trial takes a third of a second."""
    data = read_idx(folder)
    images = data[""].reshape(-1, 14, 2, 14, 2).mean(axis=(2, 4)).reshape(-1, 196)
    return images.astype(np.float32), data["labels"].astype(np.int64)


def _clusters(classes: int, width: int, apart: float, shares: tuple[float, ...] | None = None):
    """Return a maker of rows from two Gaussians per class, which overlap."""

    def rows(folder: Path) -> tuple[np.ndarray, np.ndarray]:
        fixed, rng = np.random.default_rng(1), np.random.default_rng(2)
        centers = apart * fixed.normal(size=(classes, 2, width))
        mixing = np.eye(width) + 0.5 * fixed.normal(size=(classes, width, width)) / width**0.5
        labels = rng.choice(classes, TRAIN + POOL + NEW, p=shares)
        noise = np.einsum("rij,rj->ri", mixing[labels], rng.normal(size=(len(labels), width)))
        inputs = centers[labels, rng.integers(0, 2, len(labels))] + noise
        return inputs.astype(np.float32), labels.astype(np.int64)

    return rows


def _surface(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Friedman's first function (1991) as the logarithm of a price, so that errors are skewed."""
    rng = np.random.default_rng(3)
    x = rng.random((TRAIN + POOL + NEW, 10)).astype(np.float32)
    y = 10 * np.sin(np.pi * x[:, 0] * x[:, 1]) + 20 * (x[:, 2] - 0.5) ** 2
    y = np.exp(0.08 * (y + 10 * x[:, 3] + 5 * x[:, 4])) + 0.3 * rng.normal(size=len(x))
    return x, y.astype(np.float32)[:, None]


def _tokens(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Sequences of tokens of one of five topics, a label per token that its neighbours decide."""
    fixed, rng = np.random.default_rng(4), np.random.default_rng(5)
    count = (TRAIN + POOL + NEW) // 2
    topic = 4 * rng.integers(0, 5, count)[:, None]
    tokens = (rng.integers(0, TOKENS // 2, (count, LENGTH)) + topic) % TOKENS
    vectors = np.pad(fixed.normal(size=(TOKENS, 6))[tokens], ((0, 0), (1, 1), (0, 0)))
    weights = fixed.normal(size=(3, 6, 8))
    scores = sum(vectors[:, k : k + LENGTH] @ weights[k] for k in range(3))
    labels = (scores + rng.gumbel(size=np.shape(scores))).argmax(axis=-1)
    return tokens.astype(np.int64), labels.astype(np.int64)


PLANS = {
    "digits": _Plan("classes", _digits, (196, 64, 10), "classes", "Softmax"),
    "table of 10": _Plan(
        "classes", _clusters(10, 20, 0.75), (20, 96, 48, 10), "classes", "Softmax"
    ),
    "rare class": _Plan(
        "classes", _clusters(2, 15, 0.55, (0.95, 0.05)), (15, 64, 32, 1), "binary", "Sigmoid"
    ),
    "prices": _Plan("values", _surface, (10, 96, 48, 1), "values", epochs=12),
    "digits' features": _Plan("embedding", _digits, (196, 64, 32, 10), "classes", layers=2),
    "tokens": _Plan("positions", _tokens, (16, 48, 48, 8), "tokens", epochs=8),
}


def source(name: str, mnist: Path) -> Source:
    """Return a source by name, trained once and kept in a temporary folder.

    Args:
        name: one of ``PLANS``.
        mnist: folder with MNIST's files.
    """
    plan = PLANS[name]
    inputs, labels = plan.rows(mnist)
    path = CACHE / f"{name.replace(' ', '-')}.onnx"
    rest = len(inputs) - (POOL + NEW) // (2 if plan.loss == "tokens" else 1)
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        beside = path.with_suffix(f".{os.getpid()}")
        onnx.save(_trained(plan, inputs[:rest], labels[:rest]), beside)
        beside.replace(path)
    return Source(
        name,
        plan.kind,
        onnx.load(path),
        inputs[rest:],
        None if plan.kind == "embedding" else labels[rest:],
        bool(plan.last),
    )


def new_rows(chosen: Source) -> slice:
    """Return where the new rows of a source are."""
    return slice(len(chosen.inputs) * POOL // (POOL + NEW), None)


def _trained(plan: _Plan, inputs: np.ndarray, labels: np.ndarray) -> onnx.ModelProto:
    import torch
    from torch import nn

    torch.manual_seed(0)
    pairs = list(zip(plan.sizes, plan.sizes[1:], strict=False))
    if plan.loss == "tokens":
        embed = [nn.Embedding(TOKENS, plan.sizes[0])]
        linear = [nn.Conv1d(a, b, 3 if i == 0 else 1) for i, (a, b) in enumerate(pairs)]
    else:
        embed, linear = [], [nn.Linear(a, b) for a, b in pairs]

    def forward(rows: torch.Tensor) -> torch.Tensor:
        values = rows
        if embed:
            values = nn.functional.pad(embed[0](rows).transpose(1, 2), (1, 1))
        for layer in linear[:-1]:
            values = torch.relu(layer(values))
        return linear[-1](values)

    losses = {
        "values": nn.functional.mse_loss,
        "binary": lambda out, y: nn.functional.binary_cross_entropy_with_logits(
            out[:, 0], y.float()
        ),
    }
    loss = losses.get(plan.loss, nn.functional.cross_entropy)
    x, y = torch.tensor(inputs), torch.tensor(labels)
    weights = [p for layer in [*embed, *linear] for p in layer.parameters()]
    optimizer = torch.optim.Adam(weights, 3e-3)
    steps = plan.epochs * (len(x) // 128 + 1)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(plan.epochs):
        for rows in torch.randperm(len(x)).split(128):
            optimizer.zero_grad()
            loss(forward(x[rows]), y[rows]).backward()
            optimizer.step()
            schedule.step()
    arrays = [[p.detach().numpy() for p in layer.parameters()] for layer in linear]
    table = embed[0].weight.detach().numpy() if embed else None
    return _graph(arrays[: plan.layers or None], table, plan.last)


def _graph(layers: list[list[np.ndarray]], table: np.ndarray | None, last: str) -> onnx.ModelProto:
    nodes, weights, value = [], [], "x"

    def add(operator: str, *inputs: str, **attributes: object) -> None:
        nonlocal value
        name = f"v{len(nodes)}"
        nodes.append(helper.make_node(operator, inputs, [name], **attributes))
        value = name

    if table is not None:
        weights.append(numpy_helper.from_array(table, "table"))
        add("Gather", "table", value)
        add("Transpose", value, perm=[0, 2, 1])
    for number, (weight, bias) in enumerate(layers):
        weights += [
            numpy_helper.from_array(weight, f"w{number}"),
            numpy_helper.from_array(bias, f"b{number}"),
        ]
        if weight.ndim == 3:
            edge = weight.shape[2] // 2
            add("Conv", value, f"w{number}", f"b{number}", pads=[edge, edge])
        else:
            add("Gemm", value, f"w{number}", f"b{number}", transB=1)
        if number < len(layers) - 1:
            add("Relu", value)
    if table is not None:
        add("Transpose", value, perm=[0, 2, 1])
    if last:
        add(last, value)
    nodes[-1].output[0] = "y"
    size = layers[-1][0].shape[0]
    x = (TensorProto.FLOAT, ["rows", layers[0][0].shape[1]])
    y = ["rows", size]
    if table is not None:
        x, y = (TensorProto.INT64, ["rows", LENGTH]), ["rows", LENGTH, size]
    graph = helper.make_graph(
        nodes,
        "source",
        [helper.make_tensor_value_info("x", *x)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, y)],
        weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 8
    onnx.checker.check_model(model)
    return model
