"""Path search on MNIST: what a larger weight of latency changes, measured.

    python benchmarks/nas_paths.py --mnist FOLDER      # MNIST's four .gz files

Blocks are measured on this machine first. For each weight a path is searched on 20,000 of the
training images; gates learn on images held out. What it finds is trained from scratch on all
training images that are not held out, and measured: accuracy on the 10,000 test images, once per
network; latency of all networks interleaved, onnxruntime, one thread, batch 1. Networks drawn at
random from the same space show what the search is worth.
"""

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from deep_compression_nets import Rows, load_mnist

from mlflow_compress import packed
from mlflow_compress.nas import (
    Images,
    LatencyTable,
    Net,
    NetSpec,
    accuracy,
    calibrate,
    measure_nets,
    measure_table,
    net_onnx,
    ranks_agree,
)
from mlflow_compress.nas.path_search import FoundPath, PathEpoch, retrain, search_paths
from mlflow_compress.nas.path_settings import PathSettings
from mlflow_compress.nas.path_space import PathSpace, block_label
from mlflow_compress.targets import load_target
from mlflow_compress.techniques.data import TrainData

OUT = Path(__file__).parent / "out"
HELD, SEARCHED = 5000, 20_000
SPACE = {
    "stem": {"channels": 16, "stride": 2},
    "stages": [{"channels": 24, "layers": 2}, {"channels": 48, "layers": 2, "stride": 2}],
    "candidates": {"regular": [3, 5], "separable": [3, 5, 7]},
}
SETTINGS = PathSettings(
    epochs=10, warmup=2, alpha_rate=0.1, loss="additive", learning_rate=0.1, retrain_epochs=3
)
CALIBRATED = 20
Row = dict[str, Any]


def images_of(train: Rows, rows: int | None, seed: int) -> Images:
    """Return training images, the same ones held out whatever the number of rows."""
    data = TrainData({"input": train[0]}, train[1], share=HELD / len(train[0]), digest="mnist")
    images = Images.split(data, 0)
    if rows is None:
        return images
    chosen = np.random.default_rng(seed).choice(len(images.train), rows, replace=False)
    return replace(images, train=images.train[chosen], labels=images.labels[chosen])


def table_of(space: PathSpace) -> LatencyTable:
    """Measure the blocks, and calibrate their sums by whole networks drawn at random."""
    target = here()
    table = measure_table(target, space.entries())
    rng = np.random.default_rng(0)
    specs = [space.draw(rng) for _ in range(2 * CALIBRATED)]
    times = measure_nets(target, [Net(spec) for spec in specs]).fastest
    table = calibrate(table, specs[:CALIBRATED], times[:CALIBRATED].tolist())
    rest = [table.predict(spec) for spec in specs[CALIBRATED:]]
    print(f"{len(table.blocks)} blocks; rank correlation with {CALIBRATED} other networks "
          f"{ranks_agree(rest, times[CALIBRATED:].tolist()):.3f}")  # fmt: skip
    return table


def here() -> Any:
    return load_target({"name": "here", "measured_on": "local", "objective": "accuracy"})


def searched(
    space: PathSpace, images: Images, table: LatencyTable, settings: PathSettings, seed: int
) -> tuple[FoundPath, float]:
    """Return what a search finds, and its CPU seconds."""

    def tell(epoch: PathEpoch) -> None:
        print(f"  weight {settings.weight:g}, epoch {epoch.epoch}: loss {epoch.loss:.4f}, "
              f"likeliest {100 * epoch.score:.2f} %, expected {1e3 * epoch.expected_ms:.0f} µs, "
              f"decided {epoch.decided:.2f}", flush=True)  # fmt: skip

    begin = time.process_time()
    found = search_paths(space, images, table, settings, seed=seed, watch=tell)
    return found, time.process_time() - begin


def trained(spec: NetSpec, images: Images, seed: int) -> tuple[Net, float]:
    begin = time.process_time()
    net = retrain(spec, images, SETTINGS, seed=seed)
    return net, time.process_time() - begin


def result(name: str, nets: list[Net], table: LatencyTable, test: Rows) -> Row:
    """Return a row of the table, without latency; the test images are looked at here only."""
    images, labels = torch.from_numpy(test[0]), torch.from_numpy(test[1])
    spec = nets[0].spec
    model = net_onnx(nets[0])
    return {
        "name": name,
        "blocks": [block_label(block) for block in spec.blocks[1:]],
        "parameters": sum(p.numel() for p in nets[0].parameters()),
        "multiply_adds": spec.multiply_adds,
        "bytes": len(model.SerializeToString()),
        "packed": len(packed.pack(model, "compact").SerializeToString()),
        "predicted_us": 1e3 * table.predict(spec),
        "accuracy": [100 * accuracy(net, images, labels) for net in nets],
        "spec": spec.to_dict(),
    }


def front(args: argparse.Namespace) -> list[Row]:
    train, test = load_mnist(args.mnist)
    space = PathSpace.parse(SPACE, channels=1, size=28, classes=10)
    table = table_of(space)
    few, every = images_of(train, args.rows, 1), images_of(train, None, 1)
    rows, nets = [], []
    rng = np.random.default_rng(7)
    plans: list[tuple[str, NetSpec | float]] = [(f"weight {w:g}", w) for w in args.weights]
    plans += [(f"random {i + 1}", space.draw(rng)) for i in range(args.random)]
    for name, plan in plans:
        more: Row = {}
        if isinstance(plan, NetSpec):
            spec, spent, seeds = plan, 0.0, 1
        else:
            settings = replace(SETTINGS, weight=plan, epochs=args.epochs)
            found, spent = searched(space, few, table, settings, args.seed)
            spec, seeds = found.spec, args.seeds
            more = {"history": [vars(epoch) for epoch in found.history]}
        made = [trained(spec, every, args.seed + i) for i in range(seeds)]
        nets.append(made[0][0])
        row = result(name, [net for net, _ in made], table, test)
        row |= more | {
            "search_s": spent,
            "train_s": float(np.mean([seconds for _, seconds in made])),
        }
        print(f"{name}: {row['blocks']}, {row['accuracy']}, {row['search_s']:.0f} + "
              f"{row['train_s']:.0f} s", flush=True)  # fmt: skip
        rows.append(row)
    for row, ms in zip(rows, measure_nets(here(), nets).fastest, strict=True):
        row["us"] = 1e3 * float(ms)
    return rows


def markdown(rows: list[Row]) -> str:
    head = ("network", "blocks", "multiply-adds", "weights", "packed", "accuracy", "latency",
            "search", "training")  # fmt: skip
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for row in rows:
        blocks = ", ".join(row["blocks"])
        scores = " / ".join(f"{score:.2f}" for score in row["accuracy"])
        lines.append(
            f"| {row['name']} | {blocks} | {row['multiply_adds'] / 1e6:.2f} M | "
            f"{row['parameters']:,} | {row['packed']:,} B | {scores} % | {row['us']:.0f} µs "
            f"({row['predicted_us']:.0f} predicted) | {row['search_s']:.0f} s | "
            f"{row['train_s']:.0f} s |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--mnist", type=Path, required=True, help="folder with the four .gz files")
    parser.add_argument("--weights", type=float, nargs="+", default=[0.02, 0.2, 2.0])
    parser.add_argument("--rows", type=int, default=SEARCHED, help="rows that are searched on")
    parser.add_argument("--epochs", type=int, default=SETTINGS.epochs, help="of each search")
    parser.add_argument("--random", type=int, default=2, help="networks drawn at random")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seeds", type=int, default=1, help="trainings of each found network")
    args = parser.parse_args()
    rows = front(args)
    OUT.mkdir(exist_ok=True)
    (OUT / "nas_paths.json").write_text(json.dumps(rows, indent=1))
    print(markdown(rows))


if __name__ == "__main__":
    main()
