"""The nets of "Deep Compression" on full MNIST, compressed with training, in true bytes.

    MNIST_DIR=… python benchmarks/deep_compression.py --net lenet-300-100 --seeds 3

Han et al., 2016, tables 1 to 4. A source is trained on 55,000 images, 5,000 are held out for every
choice that training makes, and the 10,000 test images are looked at once for each source and each
variant that is reported. Bytes are those of the packed file (compact profile), graph, names,
tables and checksums included, against the bytes of the source's .onnx file.
"""

import argparse
import gzip
import json
import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
import torch.nn.functional as F
from onnx import ModelProto, numpy_helper
from torch import nn

from mlflow_compress import measure, packed
from mlflow_compress.records import Recipe, Step
from mlflow_compress.techniques import Context, apply_recipe, normalize
from mlflow_compress.techniques.torch_export import export_torch
from mlflow_compress.techniques.train_data import Epoch, TrainData

Rows = tuple[np.ndarray, np.ndarray]
OUT = Path(__file__).parent / "out"


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


HOW = {"learning_rate": 2e-3, "temperature": 2.0}


def _steps(*steps: tuple[str, dict[str, Any]]) -> tuple[Step, ...]:
    return tuple(Step(name, settings) for name, settings in steps)


NETS = {
    "lenet-300-100": Net(
        lenet_300_100, 15, 1.5e-3, False,
        (
            Variant("80x", _steps(
                ("prune", {"sparsity": 0.94, "epochs": 80, **HOW}),
                ("entropy_share", {"bits": 0.37, "values": 8, "epochs": 60, **HOW}),
            ), 80, 1.64),
            Variant("125x", _steps(
                ("prune", {"sparsity": 0.955, "epochs": 80, **HOW}),
                ("entropy_share", {"bits": 0.225, "values": 8, "epochs": 60, **HOW}),
            ), 125, 1.9),
        ),
    ),
    "lenet-5": Net(lenet_5, 6, 2e-3, True, ()),
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


def error_of(model: ModelProto, images: np.ndarray, labels: np.ndarray) -> float:
    """Return the share of wrong answers in percent, from the packed file as a device runs it."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "model.onnx")
        packed.save(packed.pack(model), path)
        outputs = measure.run(packed.load(path, threads=1), measure.Dataset({"input": images}))
    return 100 * float((next(iter(outputs.values())).argmax(1) != labels).mean())


def layer_rows(model: ModelProto, weights: dict[str, int]) -> list[dict[str, Any]]:
    """Return kept weights, distinct values and bits per kept weight of each weight tensor.

    Bits are the entropies of what the packed file codes: the values of the weights that are kept,
    and the gaps between them.
    """
    rows = []
    for tensor in model.graph.initializer:
        if tensor.name not in weights:
            continue
        array = numpy_helper.to_array(tensor).ravel()
        kept = np.flatnonzero(array)
        gaps = np.diff(kept, prepend=-1)
        rows.append(
            {
                "layer": tensor.name,
                "weights": weights[tensor.name],
                "kept": len(kept),
                "values": len(np.unique(array[kept])),
                "value_bits": float(np.log2(max(2, len(np.unique(array[kept]))))),
                "value_bits_huffman": _entropy(array[kept]),
                "index_bits_huffman": _entropy(gaps),
            }
        )
    return rows


def _entropy(values: np.ndarray) -> float:
    _, counts = np.unique(values, return_counts=True)
    share = counts / counts.sum()
    return float(-(share * np.log2(share)).sum())


def run_variant(
    net: str, variant: Variant, source: ModelProto, data: TrainData, test: Rows, seed: int,
    keep: Path | None,
) -> dict[str, Any]:  # fmt: skip
    began = time.process_time()
    context = Context(train=data, seed=seed, on_epoch=_say)
    made = apply_recipe(source, Recipe(variant.steps), context)
    seconds = time.process_time() - began
    _, held = data.split(seed)
    images, labels = data.inputs["input"][held], data.labels[held]
    stages = []
    for name, model in made.stages:
        size = source.ByteSize() if name == "source" else packed.pack(model).ByteSize()
        stages.append(
            {
                "stage": name,
                "bytes": size,
                "rate": source.ByteSize() / size,
                "validation_error": error_of(model, images, labels),
            }
        )
    if keep is not None:
        onnx.save(packed.pack(made.model), keep / f"{net}-{variant.name}-{seed}.onnx")
    weights = {
        tensor.name: int(np.prod(tensor.dims))
        for tensor in source.graph.initializer
        if len(tensor.dims) > 1
    }
    return {
        "net": net,
        "variant": variant.name,
        "seed": seed,
        "bytes": stages[-1]["bytes"],
        "rate": stages[-1]["rate"],
        "test_error": error_of(made.model, *test),
        "wanted_rate": variant.rate,
        "wanted_error": variant.error,
        "cpu_seconds": seconds,
        "stages": stages,
        "layers": layer_rows(made.model, weights),
    }


def _say(epoch: Epoch) -> None:
    bits = "" if epoch.bits is None else f", {epoch.bits:.3f} bits a weight"
    print(
        f"  {epoch.technique} {epoch.epoch}/{epoch.epochs}: loss {epoch.loss:.4f}, held out "
        f"{epoch.validation_loss:.4f}, {100 - 100 * (epoch.score or 0):.2f} % wrong{bits}",
        flush=True,
    )


def show(result: dict[str, Any]) -> None:
    """Print one variant's tables."""
    print(
        f"{result['net']} {result['variant']} seed {result['seed']}: {result['rate']:.1f}x, "
        f"{result['bytes']:,} bytes, test error {result['test_error']:.2f} % "
        f"(wanted {result['wanted_rate']:g}x at {result['wanted_error']} %), "
        f"{result['cpu_seconds']:.0f} CPU seconds"
    )
    print("  stage            bytes     rate   held-out error")
    for row in result["stages"]:
        print(
            f"  {row['stage']:14s} {row['bytes']:9,} {row['rate']:7.1f}x "
            f"{row['validation_error']:7.2f} %"
        )
    print("  layer           weights    kept   values  bits  +Huffman  index bits")
    for row in result["layers"]:
        print(
            f"  {row['layer']:14s} {row['weights']:8,} {100 * row['kept'] / row['weights']:6.2f}% "
            f"{row['values']:7d} {row['value_bits']:6.1f} {row['value_bits_huffman']:8.2f} "
            f"{row['index_bits_huffman']:9.2f}",
            flush=True,
        )


def shortened(variant: Variant) -> Variant:
    """Return the variant with a tenth of the epochs."""
    steps = [
        Step(s.technique, {**s.settings, "epochs": max(1, s.settings["epochs"] // 10)})
        if "epochs" in s.settings
        else s
        for s in variant.steps
    ]
    return Variant(variant.name, tuple(steps), variant.rate, variant.error)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--mnist", type=Path, default=os.environ.get("MNIST_DIR"))
    parser.add_argument("--net", choices=[*NETS, "all"], default="all")
    parser.add_argument("--variant", help="only the variant of this name")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--short", action="store_true", help="a tenth of the epochs")
    parser.add_argument("--sources", type=Path, help="folder to keep trained sources in")
    options = parser.parse_args()
    if options.mnist is None:
        parser.error("set MNIST_DIR or --mnist to a folder with MNIST's four .gz files")
    torch.set_num_threads(1)
    (images, labels), test = load_mnist(Path(options.mnist))
    data = TrainData({"input": images}, labels, share=1 / 12, augment=shifted)
    results = []
    for name in NETS if options.net == "all" else [options.net]:
        for seed in range(options.seeds):
            source = _source(name, data, seed, options.sources)
            print(f"{name} seed {seed}: source {source.ByteSize():,} bytes, test error "
                  f"{error_of(source, *test):.2f} %", flush=True)  # fmt: skip
            for variant in NETS[name].variants:
                if options.variant in (None, variant.name):
                    chosen = shortened(variant) if options.short else variant
                    results.append(
                        run_variant(name, chosen, source, data, test, seed, options.sources)
                    )
                    show(results[-1])
    OUT.mkdir(exist_ok=True)
    (OUT / "deep_compression.json").write_text(json.dumps(results, indent=2))


def _source(name: str, data: TrainData, seed: int, folder: Path | None) -> ModelProto:
    path = None if folder is None else folder / f"{name}-source-{seed}.onnx"
    if path is not None and path.exists():
        return onnx.load(path)
    source = train_source(NETS[name], data, seed)
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        onnx.save(source, path)
    return source


if __name__ == "__main__":
    main()
