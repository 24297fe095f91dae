"""Channel pruning of a residual network: ours on the graph beside torch-pruning, same training.

    python benchmarks/channel_pruning.py --mnist FOLDER      # MNIST's four .gz files

A network of three residual stages with BatchNormalization is trained on 20,000 images. Both ways
remove channels until half of the multiply-adds are left and then learn the source's outputs with
the same loss, rows and epochs (torch-pruning, PyPI, is a peer and no dependency). The 10,000 test
images are looked at once per row; latency is interleaved, one thread, batch 1.
"""

import argparse
import json
import math
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
import torch.nn.functional as F
from onnx import ModelProto, shape_inference
from torch import nn

from mlflow_compress import measure
from mlflow_compress.records import Recipe, Step
from mlflow_compress.techniques import Context, apply_recipe, normalize
from mlflow_compress.techniques.data import TrainData
from mlflow_compress.techniques.training.export import export_torch

OUT = Path(__file__).parent / "out"
ROWS, WIDTHS = 20_000, (32, 64, 128)


class Block(nn.Module):
    """Two 3x3 convolutions and a way around them."""

    def __init__(self, inside: int, outside: int, stride: int) -> None:
        super().__init__()
        self.one = nn.Conv2d(inside, outside, 3, stride, 1, bias=False)
        self.two = nn.Conv2d(outside, outside, 3, 1, 1, bias=False)
        self.norms = nn.ModuleList([nn.BatchNorm2d(outside), nn.BatchNorm2d(outside)])
        self.around = nn.Conv2d(inside, outside, 1, stride) if inside != outside else nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return relu(f(x) + x)."""
        made = F.relu(self.norms[0](self.one(x)))
        made = self.norms[1](self.two(made))
        return F.relu(made + self.around(x))


def network() -> nn.Module:
    stages, inside = [], WIDTHS[0]
    for width in WIDTHS:
        stages.append(Block(inside, width, 1 if width == inside else 2))
        inside = width
    return nn.Sequential(
        nn.Conv2d(1, WIDTHS[0], 3, 2, 1), nn.ReLU(), *stages,
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inside, 10),
    )  # fmt: skip


def train(net: nn.Module, images: torch.Tensor, labels: torch.Tensor, epochs: int, seed: int,
          teacher: nn.Module | None = None) -> None:  # fmt: skip
    """Train by labels, or by a teacher's outputs at temperature 4, as ``distill`` does."""
    torch.manual_seed(seed)
    adam = torch.optim.Adam(net.parameters(), 1e-3)
    steps = epochs * (len(images) // 128)
    plan = torch.optim.lr_scheduler.CosineAnnealingLR(adam, steps)
    net.train()
    for _ in range(epochs):
        for rows in torch.randperm(len(images))[: len(images) // 128 * 128].split(128):
            logits = net(images[rows])
            if teacher is None:
                loss = F.cross_entropy(logits, labels[rows])
            else:
                with torch.no_grad():
                    wanted = teacher(images[rows])
                loss = 16 * F.kl_div(
                    F.log_softmax(logits / 4, 1), F.log_softmax(wanted / 4, 1),
                    log_target=True, reduction="batchmean",
                )  # fmt: skip
            adam.zero_grad()
            loss.backward()
            adam.step()
            plan.step()
    net.eval()


def multiply_adds(model: ModelProto) -> int:
    """Return the multiply-adds of one row in Conv and Gemm."""
    model = shape_inference.infer_shapes(model)
    shapes = {
        v.name: [d.dim_value for d in v.type.tensor_type.shape.dim]
        for v in (*model.graph.value_info, *model.graph.output)
    }
    held = {t.name: list(t.dims) for t in model.graph.initializer}
    total = 0
    for node in model.graph.node:
        if node.op_type in ("Conv", "Gemm"):
            places = math.prod(shapes[node.output[0]][2:])
            total += math.prod(held[node.input[1]]) * places
    return total


def ours(source: ModelProto, data: TrainData, ratio: float, epochs: int, seed: int) -> ModelProto:
    steps = [Step("fold"), Step("shrink", {"ratio": ratio, "round_to": 8})]
    if epochs:
        steps.append(Step("distill", {"epochs": epochs, "label_share": 0.0}))
    context = Context(calibration=data.head(2048), train=data, seed=seed)
    return apply_recipe(source, Recipe(tuple(steps)), context).model


def theirs(net: nn.Module, images: torch.Tensor, labels: torch.Tensor, ratio: float,
           epochs: int, seed: int) -> ModelProto:  # fmt: skip
    import copy

    import torch_pruning

    small = copy.deepcopy(net)
    pruner = torch_pruning.pruner.MagnitudePruner(
        small, images[:1], importance=torch_pruning.importance.MagnitudeImportance(p=2),
        pruning_ratio=ratio, round_to=8, ignored_layers=[small[-1]],
    )  # fmt: skip
    pruner.step()
    if epochs:
        train(small, images, labels, epochs, seed, net)
    return export(small.eval(), images)


def export(net: nn.Module, images: torch.Tensor) -> ModelProto:
    return normalize(export_torch(net, {"input": images[:8].numpy()}))


def halved(make: Callable[[float], ModelProto], source: ModelProto) -> float:
    """Return the smallest ratio, in steps of 2 %, that leaves at most half the multiply-adds."""
    whole = multiply_adds(source)
    for percent in range(20, 70, 2):
        if multiply_adds(make(percent / 100)) <= whole / 2:
            return percent / 100
    raise SystemExit("no ratio halves the multiply-adds")


def row(name: str, model: ModelProto, source: ModelProto, test: measure.Dataset,
        seconds: float) -> dict[str, Any]:  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        onnx.save(model, path)
        session, before = measure.open_session(path), measure.open_session(source)
        accuracy = measure.measure_accuracy(
            measure.run(session, test), measure.run(before, test), test
        )
        latency = measure.measure_latency(session, before, test)
    made = {
        "name": name,
        "multiply_adds": multiply_adds(model) / multiply_adds(source),
        "accuracy": accuracy.value,
        "lost": 100 * accuracy.drop,
        "interval": [100 * accuracy.drop_interval.low, 100 * accuracy.drop_interval.high],
        "faster": 1 / latency.ratio,
        "faster_interval": [1 / latency.ratio_interval.high, 1 / latency.ratio_interval.low],
        "p50_ms": latency.p50,
        "source_ms": latency.source_p50,
        "cpu_seconds": seconds,
    }
    low, high = made["interval"]
    fast = made["faster_interval"]
    print(
        f"{name:28s} {100 * made['multiply_adds']:5.1f} % of the multiply-adds, "
        f"{100 * accuracy.value:.2f} %, lost {made['lost']:.2f} [{low:.2f}, {high:.2f}], "
        f"{made['faster']:.2f} [{fast[0]:.2f}, {fast[1]:.2f}] times as fast "
        f"({latency.source_p50:.3f} to {latency.p50:.3f} ms), {seconds:.0f} CPU s",
        flush=True,
    )
    return made


def read(path: Path) -> tuple[dict[str, np.ndarray], np.ndarray]:
    data = measure.load_dataset(str(path))
    (images,) = data.inputs.values()
    return {"input": images[:, None]}, data.labels.astype(np.int64)


def compare(data: TrainData, test: measure.Dataset, epochs: int, seed: int) -> list[dict[str, Any]]:
    """Train a source, and measure what each way makes of it."""
    tensors = torch.from_numpy(data.inputs["input"]), torch.from_numpy(data.labels)
    torch.manual_seed(seed)
    net = network()
    train(net, *tensors, 4, seed)
    source = export(net, tensors[0])
    results = [row(f"source, seed {seed}", source, source, test, 0)]
    ways = {
        "ours, no training": lambda ratio, _: ours(source, data, ratio, 0, seed),
        "ours": lambda ratio, epochs: ours(source, data, ratio, epochs, seed),
        "torch-pruning": lambda ratio, epochs: theirs(net, *tensors, ratio, epochs, seed),
    }
    for name, make in ways.items():
        ratio = halved(lambda ratio, make=make: make(ratio, 0), source)
        began = time.process_time()
        model = make(ratio, epochs)
        spent = time.process_time() - began
        results.append(row(f"{name}, ratio {ratio:g}", model, source, test, spent))
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--mnist", type=Path, default=os.environ.get("MNIST_DIR"), required=False)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--epochs", type=int, default=4)
    options = parser.parse_args()
    if options.mnist is None:
        parser.error("set MNIST_DIR or --mnist to a folder with MNIST's four .gz files")
    torch.set_num_threads(1)
    images, labels = read(options.mnist / "train-images-idx3-ubyte.gz")
    test = measure.Dataset(*read(options.mnist / "t10k-images-idx3-ubyte.gz"), "mnist test")
    data = TrainData({"input": images["input"][:ROWS]}, labels[:ROWS])
    results = [
        row for seed in range(options.seeds) for row in compare(data, test, options.epochs, seed)
    ]
    OUT.mkdir(exist_ok=True)
    (OUT / "channel_pruning.json").write_text(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
