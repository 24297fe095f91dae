"""Pruning, sharing and both on one axis, and what images without labels are worth.

Parts of ``deep_compression.py``. The first is figure 6 of "Deep Compression"; both run on
LeNet-300-100.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from onnx import ModelProto

from mlflow_compress import packed
from mlflow_compress.records import Recipe, Step
from mlflow_compress.techniques import Context, apply_recipe
from mlflow_compress.techniques.data import TrainData

ErrorOf = Callable[[ModelProto], float]
"""Test error of a model in percent."""

LEARN = {"epochs": 4, "label_share": 1.0}
TUNE = {"epochs": 2, "label_share": 1.0, "learning_rate": 3e-4}
SPARSITIES = (0.8, 0.9, 0.95, 0.97, 0.98)
CLUSTERS = (64, 16, 8, 4, 3)

FEW = 300
CUT = {"ratio": 0.75, "method": "magnitude", "repair": False}
LABEL_FREE = {"epochs": 300, "batch": 30, "learning_rate": 3e-3}


def curves(source: ModelProto, data: TrainData, test_error: ErrorOf) -> list[dict[str, Any]]:
    """Return the points of the figure: what is done, how far, rate and points of accuracy lost."""
    context = Context(train=data, source=source)
    before = test_error(source)
    points: list[dict[str, Any]] = []

    def made(model: ModelProto, name: str, label: str, step: Step) -> ModelProto:
        model = apply_recipe(model, Recipe((step,)), context).model
        rate = source.ByteSize() / packed.pack(model).ByteSize()
        lost = test_error(model) - before
        points.append({"technique": name, "label": label, "rate": rate, "lost": lost})
        print(f"  {name:16s} {label:22s} {rate:6.1f}x {lost:+6.2f} points", flush=True)
        return model

    for sparsity, clusters in zip(SPARSITIES, CLUSTERS, strict=True):
        share = Step("share", {"clusters": clusters, **TUNE})
        made(source, "sharing only", f"{clusters} values", share)
        step = Step("prune", {"sparsity": sparsity, **LEARN})
        pruned = made(source, "pruning only", f"{100 * sparsity:g} %", step)
        made(pruned, "pruning, sharing", f"{100 * sparsity:g} %, {clusters} values", share)
    return points


def draw(points: list[dict[str, Any]], path: Path) -> None:
    """Write the figure as a page: accuracy lost against the compression rate."""
    from plotly.graph_objects import Figure, Scatter

    figure = Figure()
    symbols = ("circle", "square", "diamond")
    for symbol, name in zip(symbols, dict.fromkeys(p["technique"] for p in points), strict=True):
        line = sorted((p for p in points if p["technique"] == name), key=lambda p: p["rate"])
        figure.add_trace(
            Scatter(
                x=[point["rate"] for point in line],
                y=[-point["lost"] for point in line],
                text=[point["label"] for point in line],
                name=name,
                mode="lines+markers",
                marker={"symbol": symbol, "size": 9},
            )
        )
    figure.update_xaxes(type="log", title="compression rate, bytes of the file")
    figure.update_yaxes(title="accuracy, points against the source")
    figure.write_html(path, include_plotlyjs="cdn")


def label_free(
    source: ModelProto, data: TrainData, test_error: ErrorOf, seed: int
) -> dict[str, Any]:
    """Return what recovers the pruned network: 300 labels, or the source's outputs on 300 images.

    Three quarters of the channels are gone. Both train equally long, from the same network, on the
    same images, shifted alike.
    """
    rows, _ = data.split(seed)
    few = np.random.default_rng([seed, 4]).choice(rows, FEW, replace=False)
    images = {name: array[few] for name, array in data.inputs.items()}
    labelled = TrainData(images, data.labels[few], share=0.1, augment=data.augment)
    pruned = apply_recipe(source, Recipe((Step("shrink", CUT),)), Context()).model

    def taught(few_rows: TrainData, label_share: float) -> float:
        context = Context(train=few_rows, source=source, seed=seed)
        step = Step("distill", {**LABEL_FREE, "label_share": label_share})
        return 100 - test_error(apply_recipe(pruned, Recipe((step,)), context).model)

    result = {
        "seed": seed,
        "source": 100 - test_error(source),
        "pruned": 100 - test_error(pruned),
        "labels": taught(labelled, 1.0),
        "distilled": taught(replace(labelled, labels=None), 0.0),
    }
    print(
        f"label-free, seed {seed}: source {result['source']:.2f} % right, 75 % pruned "
        f"{result['pruned']:.2f}, then {FEW} labels {result['labels']:.2f}, "
        f"{FEW} images without labels {result['distilled']:.2f} "
        f"({result['distilled'] - result['labels']:+.2f} points)",
        flush=True,
    )
    return result
