"""Depthwise-separable against regular convolutions on MNIST, designed so and rewritten.

    python benchmarks/nas_separable.py --mnist FOLDER      # MNIST's four .gz files

The same network is trained from scratch with regular and with separable blocks, on 55,000 images;
the other 5,000 training images are held out. The trained regular one, and Caffe's LeNet-5, are then
rewritten by the technique ``separable``, without training and with distillation from its source.
The 10,000 test images are scored once per network. Latency: each interleaved with its source,
onnxruntime, one thread, batch 1.
"""

import argparse
import json
import math
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from channel_pruning import multiply_adds
from deep_compression_nets import Rows, lenet_5, load_mnist
from onnx import ModelProto
from torch import nn

from mlflow_compress import packed
from mlflow_compress.measure import Dataset, measure_latency, open_session
from mlflow_compress.measure.intervals import paired_proportions_interval
from mlflow_compress.nas import BlockSpec, Images, Net, NetSpec, Schedule, fit_net, net_onnx
from mlflow_compress.records import Recipe, Step
from mlflow_compress.techniques import Context, apply_recipe, normalize
from mlflow_compress.techniques.data import TrainData
from mlflow_compress.techniques.graph.running import run, session
from mlflow_compress.techniques.training.export import export_torch

OUT = Path(__file__).parent / "out"
HELD, CALIBRATION = 5000, 2048
WIDTHS = ((24, 1), (24, 1), (48, 2), (48, 1))
WAYS = {
    "rank 1": {"rank": 1, "max_error": 1.0},
    "rank 1 where at most half is lost": {"rank": 1},
    "rank 2": {"rank": 2, "max_error": 1.0},
}
Row = dict[str, Any]


def designed(kind: Any) -> Net:
    """Return a stem and four 3x3 blocks of a kind, on 14x14 and 7x7 places."""
    blocks, inputs = [BlockSpec("regular", 1, 16, 3, 2)], 16
    for outputs, stride in WIDTHS:
        blocks.append(BlockSpec(kind, inputs, outputs, 3, stride, residual=False))
        inputs = outputs
    return Net(NetSpec(1, 28, 28, tuple(blocks), 10))


def trained(make: Callable[[], nn.Module], rate: float, data: TrainData, epochs: float, seed: int
            ) -> tuple[ModelProto, float]:  # fmt: skip
    """Train a network from scratch; return it as ONNX, and its CPU seconds."""
    begin = time.process_time()
    torch.manual_seed(seed)
    net = make()
    fit_net(net, Images.split(data, 0), Schedule(epochs, rate), seed=seed)
    model = net_onnx(net) if isinstance(net, Net) else export_torch(
        net.eval(), {"input": data.inputs["input"][:8]}
    )  # fmt: skip
    return normalize(model), time.process_time() - begin


def rewritten(source: ModelProto, data: TrainData, epochs: int, seed: int, **settings: Any
              ) -> tuple[ModelProto, float]:  # fmt: skip
    """Rewrite layers; return what came of it, and its CPU seconds."""
    begin = time.process_time()
    step = Step("separable", {"epochs": epochs, **settings})
    calibration = {"input": data.inputs["input"][:CALIBRATION]}
    context = Context(calibration=calibration, train=data, seed=seed)
    made = apply_recipe(source, Recipe((step,)), context)
    for note in made.notes:
        print(f"    {note}", flush=True)
    return made.model, time.process_time() - begin


def is_right(model: ModelProto, test: Rows) -> np.ndarray:
    """Return which test rows are right."""
    opened, (name,) = session(model), [value.name for value in model.graph.input]
    parts = [run(opened, [model.graph.output[0].name], {name: test[0][i : i + 500]})[0]
             for i in range(0, len(test[0]), 500)]  # fmt: skip
    right: np.ndarray = np.concatenate(parts).argmax(1) == test[1]
    return right


def compared(args: argparse.Namespace) -> list[Row]:
    train, test = load_mnist(args.mnist)
    data = TrainData({"input": train[0]}, train[1], "mnist", HELD / len(train[0]))
    rows: dict[str, Row] = {}
    models: dict[str, ModelProto] = {}

    def take(name: str, made: tuple[ModelProto, float], source: str) -> None:
        model, seconds = made
        row = rows.setdefault(name, {"name": name, "source": source, "right": [], "seconds": []})
        row["right"].append(is_right(model, test))
        row["seconds"].append(seconds)
        models.setdefault(name, model)
        print(f"  {name}: {100 * row['right'][-1].mean():.2f} %, {seconds:.0f} s", flush=True)

    sources = {
        "regular": (lambda: designed("regular"), 0.1),
        "LeNet-5": (lenet_5, 0.02),
    }
    for seed in range(args.seed, args.seed + args.seeds):
        for name, (make, rate) in sources.items():
            made = trained(make, rate, data, args.epochs, seed)
            take(name, made, name)
            if name == "regular":
                separable = trained(lambda: designed("separable"), rate, data, args.epochs, seed)
                take("separable by design", separable, name)
            for way, settings in WAYS.items():
                for epochs in (0, args.distilled):
                    how = "distilled" if epochs else "repaired"
                    take(f"{name}, {way}, {how}",
                         rewritten(made[0], data, epochs, seed, **settings), name)  # fmt: skip
    return finished(rows, models, test)


def finished(rows: dict[str, Row], models: dict[str, ModelProto], test: Rows) -> list[Row]:
    """Measure latency beside the source's, and turn rows into plain data."""
    made = []
    data = Dataset({"input": test[0][:64]}, test[1][:64], "mnist")
    with tempfile.TemporaryDirectory() as folder:
        paths = {}
        for index, (name, model) in enumerate(models.items()):
            paths[name] = Path(folder) / f"{index}.onnx"
            onnx.save(model, paths[name])
        for name, row in rows.items():
            model, right, base = models[name], row["right"], rows[row["source"]]["right"]
            lost, won = int((base[0] & ~right[0]).sum()), int((~base[0] & right[0]).sum())
            interval = paired_proportions_interval(lost, won, len(right[0]))
            sessions = [open_session(paths[one]) for one in (name, row["source"])]
            latency = measure_latency(*sessions, data)
            bounds = latency.ratio_interval
            made.append(
                {key: value for key, value in row.items() if key != "right"}
                | {
                    "parameters": sum(math.prod(t.dims) for t in model.graph.initializer),
                    "multiply_adds": multiply_adds(model),
                    "packed": len(packed.pack(model, "compact").SerializeToString()),
                    "accuracy": [100 * float(one.mean()) for one in right],
                    "lost": [100 * interval.low, 100 * interval.high],
                    "us": 1e3 * latency.p50,
                    "ratio": [latency.ratio, bounds.low, bounds.high],
                }
            )
    return made


def markdown(rows: list[Row]) -> str:
    head = ("network", "weights", "multiply-adds", "accuracy", "lost (95 %)", "latency",
            "times the regular", "packed", "CPU seconds")  # fmt: skip
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for row in rows:
        scores = " / ".join(f"{score:.2f}" for score in row["accuracy"])
        is_source = row["name"] == row["source"]
        lost = "" if is_source else f"{row['lost'][0]:.2f} to {row['lost'][1]:.2f}"
        ratio = "{:.2f} ({:.2f} to {:.2f})".format(*row["ratio"])
        lines.append(
            f"| {row['name']} | {row['parameters']:,} | {row['multiply_adds'] / 1e6:.2f} M | "
            f"{scores} % | {lost} | {row['us']:.0f} µs | {'' if is_source else ratio} | "
            f"{row['packed']:,} B | {np.mean(row['seconds']):.0f} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--mnist", type=Path, required=True, help="folder with the four .gz files")
    parser.add_argument("--epochs", type=float, default=3, help="of networks from scratch")
    parser.add_argument("--distilled", type=int, default=6, help="epochs after rewriting")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seeds", type=int, default=1)
    args = parser.parse_args()
    rows = compared(args)
    OUT.mkdir(exist_ok=True)
    (OUT / "nas_separable.json").write_text(json.dumps(rows, indent=1))
    print(markdown(rows))


if __name__ == "__main__":
    main()
