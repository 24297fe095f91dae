"""Architecture search on full MNIST, from the supernet to what is promoted.

    python benchmarks/nas.py --mnist FOLDER --out OUT [stage …]

Stages, each of which writes OUT/<stage>.json and prints its table: ``train`` (the supernet of
examples/nas_edge), ``ends`` (its smallest and largest subnet), ``table`` (the latency table against
25 networks that did not calibrate it), ``specialize`` (a subnet for each target), ``scratch`` (the
same networks trained alone), ``lenet`` (LeNet-5, pruned, for the same targets), ``finetune`` (one
subnet, trained once more in its recipe). All CPU seconds are of one thread; test accuracy is that
of the 10,000 test images. Networks are chosen on rows held out; which finalist and which recipe is
promoted is chosen by the test images, since they are ``data.evaluation``.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mlflow_compress import measure, nas
from mlflow_compress.config.compress import parse_config
from mlflow_compress.config.nas import NasConfig, load_nas_config
from mlflow_compress.jobs import compress as job
from mlflow_compress.jobs.nas import supernet as nas_job
from mlflow_compress.mlflow_plugin import connect, resolve
from mlflow_compress.registry import read_variants
from mlflow_compress.targets import latency_for, load_target
from mlflow_compress.techniques.data import TrainData

EXAMPLE = Path(__file__).parents[1] / "examples/nas_edge"
CALIBRATION, CHECKED = 20, 25


class Bench:
    """The example's folder, copied, and what the stages share."""

    def __init__(self, out: Path, mnist: Path, overrides: list[str]) -> None:
        self.out = out
        out.mkdir(parents=True, exist_ok=True)
        for name in ("prepare.py", "space.yaml"):
            (out / name).write_bytes((EXAMPLE / name).read_bytes())
        if not (out / "out/train.npz").exists():
            subprocess.run([sys.executable, out / "prepare.py", mnist], check=True)
        kept = [f"train.checkpoint_folder={out / 'checkpoints'}"]
        self.config: NasConfig = load_nas_config(out / "space.yaml", [*kept, *overrides])
        self.targets = [load_target(spec) for spec in self.config.targets]

    def rows(self, role: str) -> measure.Dataset:
        return measure.load_dataset(str(self.out / f"out/{role}.npz"), name=f"mnist-{role}")

    def images(self) -> nas.Images:
        rows = self.rows("train")
        return nas.Images.split(TrainData(rows.inputs, rows.labels, rows.digest))

    def supernet(self) -> nas.Supernet:
        found = resolve(
            f"models:/{self.config.name}/latest", self.out, client=connect(self.config.tracking_uri)
        )
        assert found.folder is not None
        return nas.Supernet.read(found.folder / "extra_files" / nas.SUPERNET_FILE)

    def test(self, net: nas.Net) -> float:
        rows = self.rows("evaluation")
        assert rows.labels is not None
        images = torch.from_numpy(rows.inputs["image"])
        return nas.accuracy(net, images, torch.from_numpy(rows.labels))

    def write(self, stage: str, made: Any) -> None:
        (self.out / f"{stage}.json").write_text(json.dumps(made, indent=1, default=str))

    def read(self, stage: str) -> Any:
        return json.loads((self.out / f"{stage}.json").read_text())


def train(bench: Bench) -> None:
    """Train and register the supernet."""
    done = nas_job.train(bench.config, print)
    bench.write("train", asdict(done))
    print(f"{done.subnets:,} subnets, {done.seconds:.0f} CPU seconds")


def ends(bench: Bench) -> None:
    """Score the smallest and the largest subnet on the test images."""
    supernet, images = bench.supernet(), bench.images()
    space, made = supernet.net.space, {}
    for name, subnet in (("largest", space.subnet()), ("smallest", space.smallest())):
        net = supernet.subnet(subnet, {supernet.input_name: images.train.numpy()})
        made[name] = {
            "subnet": str(subnet), "test": bench.test(net), "weights": net.spec.weights,
            "multiply_adds": net.spec.multiply_adds,
        }  # fmt: skip
        print(name, made[name])
    made["gap"] = made["largest"]["test"] - made["smallest"]["test"]
    bench.write("ends", made)


def table(bench: Bench) -> None:
    """Compare the table with networks that did not calibrate it, on three seeds."""
    net, made = bench.supernet().net, []
    space, target = net.space, bench.targets[0]
    shape = net.channels, net.size, net.classes
    blocks = list(space.all_blocks(*shape))
    for seed in range(3):
        begin = time.process_time(), time.monotonic()
        measured = nas.measure_table(target, blocks, seed=seed)
        spent = time.monotonic() - begin[1]
        some = nas.spread(space, CALIBRATION + CHECKED, seed + 10)
        order = np.random.default_rng(seed).permutation(len(some))
        some = [some[index] for index in order]
        specs = [space.spec(subnet, *shape) for subnet in some]
        timed = nas.measure_nets(target, [net.take(subnet) for subnet in some], seed=seed)
        row: dict[str, Any] = {"seed": seed, "blocks": len(blocks), "seconds": spent}
        for kind, times in (("fastest", timed.fastest), ("typical", timed.typical)):
            fitted = nas.calibrate(measured, specs[:CALIBRATION], times[:CALIBRATION])
            predicted = np.array([fitted.predict(spec) for spec in specs[CALIBRATION:]])
            checked = times[CALIBRATION:]
            row[kind] = {
                "spearman": nas.ranks_agree(predicted, checked),
                "ratios": [float((predicted / checked).min()), float((predicted / checked).max())],
                "uncalibrated": nas.ranks_agree(
                    [measured.sum_ms(spec) for spec in specs[CALIBRATION:]], checked
                ),
            }
        macs = [spec.multiply_adds for spec in specs[CALIBRATION:]]
        row["multiply_adds"] = nas.ranks_agree(macs, timed.fastest[CALIBRATION:])
        row["range_ms"] = [float(timed.fastest.min()), float(timed.fastest.max())]
        made.append(row)
        print(json.dumps(row))
    bench.write("table", made)


def specialize(bench: Bench) -> None:
    """Find the subnets of the targets, and promote what the recipes make of them."""
    begin = time.process_time(), time.monotonic()
    done = nas_job.specialize(bench.config, tell=print)
    spent = time.process_time() - begin[0]
    made: dict[str, Any] = {"cpu_seconds": spent, "wall": time.monotonic() - begin[1]}
    for result in done.results:
        made[result.target] = {**asdict(result.best), "subnet": str(result.best.subnet),
                               "fits": result.fits}  # fmt: skip
    if done.outcome is not None:
        made["promoted"] = promoted(bench, done.outcome)
    bench.write("specialize", made)


def promoted(bench: Bench, outcome: job.Outcome) -> list[dict[str, Any]]:
    """Return what each target's alias points to."""
    client, rows = connect(bench.config.tracking_uri), []
    variants = {one.version: one for one in read_variants(client, outcome.registered_as)}
    for decision in outcome.decisions:
        target = next(t for t in bench.targets if t.name == decision.target)
        row: dict[str, Any] = {"target": target.name, "outcome": decision.outcome}
        found = variants.get(decision.version or -1)
        if found is not None:
            latency = latency_for(found.report, target)
            row |= {
                "recipe": found.recipe.label,
                "test": found.report.accuracy.value if found.report.accuracy else None,
                "p50_ms": latency.p50 if latency else None,
                "limit_ms": target.limits.latency_p50_ms,
                "bytes": found.report.size_bytes,
                "source": found.source,
            }
        row["reason"] = decision.reason
        rows.append(row)
        print(json.dumps(row))
    return rows


def show(outcome: job.Outcome) -> None:
    """Print every trial's accuracy, latency and bytes."""
    for trial in outcome.trials:
        if trial.variant is not None and trial.variant.report.accuracy is not None:
            report, accuracy = trial.variant.report, trial.variant.report.accuracy
            p50 = report.latency[0].p50
            print(f"{trial.recipe.label}: {accuracy.value:.4f}, {p50:.4f} ms, {report.size_bytes}")


def scratch(bench: Bench, epochs: float = 3.0) -> None:
    """Train each target's network alone, and compare it with the subnet on the test images."""
    found, supernet, images = bench.read("specialize"), bench.supernet(), bench.images()
    made = []
    for target in bench.targets:
        subnet = nas.Subnet.parse(found[target.name]["subnet"])
        taken = supernet.subnet(subnet, {supernet.input_name: images.train.numpy()})
        torch.manual_seed(0)
        alone = nas.Net(taken.spec)
        begin = time.process_time()
        nas.fit_net(alone, images, nas.Schedule(epochs, bench.config.train.learning_rate))
        row = {
            "target": target.name, "subnet": str(subnet), "epochs": epochs,
            "supernet_test": bench.test(taken), "scratch_test": bench.test(alone),
            "scratch_cpu_seconds": time.process_time() - begin,
            "weights": taken.spec.weights, "multiply_adds": taken.spec.multiply_adds,
            "limit_ms": target.limits.latency_p50_ms, "measured_ms": found[target.name]["ms"],
        }  # fmt: skip
        row["gap_points"] = 100 * (row["scratch_test"] - row["supernet_test"])
        made.append(row)
        print(json.dumps(row), flush=True)
        bench.write("scratch", made)


def lenet_5(bench: Bench) -> torch.nn.Module:
    """Return LeNet-5, trained for four epochs."""
    images = bench.images()
    torch.manual_seed(0)
    net = torch.nn.Sequential(
        torch.nn.Conv2d(1, 20, 5), torch.nn.MaxPool2d(2), torch.nn.Conv2d(20, 50, 5),
        torch.nn.MaxPool2d(2), torch.nn.Flatten(), torch.nn.Linear(800, 500), torch.nn.ReLU(),
        torch.nn.Linear(500, 10),
    )  # fmt: skip
    begin = time.process_time()
    nas.fit_net(net, images, nas.Schedule(4, 0.05))
    print(f"LeNet-5: {time.process_time() - begin:.0f} CPU seconds, test {bench.test(net):.4f}")
    return net


def lenet(bench: Bench) -> None:
    """Compress LeNet-5 for the same targets, into a registered model of its own."""
    net = lenet_5(bench)
    rows = {role: str(bench.out / f"out/{role}.npz") for role in ("train", "evaluation")}
    plain = {
        "source": "lenet-5",
        "register_as": "lenet-edge",
        "experiment": "lenet-edge",
        "tracking_uri": bench.config.tracking_uri,
        "data": {
            "train": {"path": rows["train"], "rows": 20_000},
            "evaluation": rows["evaluation"],
        },
        "recipes": [
            [
                {"shrink": {"ratio": {"choices": [0.5, 0.7, 0.8]}}},
                {"distill": {"epochs": 3}},
                {"weight_only": {"bits": 4}},
                "trim",
            ],
            [
                {"prune": {"sparsity": 0.9, "epochs": 3}},
                {"share": {"clusters": 32, "epochs": 1}},
                "trim",
            ],
        ],
        "search": {"strategy": "grid", "screen": False, "executor": "inline"},
        "targets": list(bench.config.targets),
    }
    begin = time.process_time()
    outcome = job.run(parse_config(plain), source=net)
    print(f"recipes: {time.process_time() - begin:.0f} CPU seconds")
    show(outcome)
    bench.write("lenet", promoted(bench, outcome))


def finetune(bench: Bench) -> None:
    """Train a subnet once more within the recipe, for the target that allows most; LeNet-5 as well.

    It is one of that target's finalists, faster than the one that won, so that the limit is kept.
    """
    rows = {role: str(bench.out / f"out/{role}.npz") for role in ("train", "evaluation")}
    subnet = {"shrink": {"subnet": "28: 3x4 5x4 | 7x4 3x3 3x2"}}
    distill = {"distill": {"epochs": 3, "label_share": 1.0, "learning_rate": 2e-3}}
    small: list[Any] = [{"weight_only": {"bits": 4}}, "trim"]
    shrunk = {"shrink": {"ratio": {"choices": [0.3, 0.5]}}}
    made = {}
    for name, source, recipes in (
        ("digits-tuned", f"models:/{bench.config.name}/latest", [[subnet, distill, *small]]),
        ("lenet-tuned", "lenet-5", [[shrunk, distill, *small]]),
    ):
        plain = {
            "source": source,
            "register_as": name,
            "tracking_uri": bench.config.tracking_uri,
            "data": {"train": rows["train"], "evaluation": rows["evaluation"]},
            "recipes": recipes,
            "search": {"screen": False, "executor": "inline"},
            "targets": bench.config.targets[:1],
        }
        given = lenet_5(bench) if source == "lenet-5" else None
        begin = time.process_time()
        outcome = job.run(parse_config(plain), source=given)
        print(f"{name}: {time.process_time() - begin:.0f} CPU seconds")
        show(outcome)
        made[name] = promoted(bench, outcome)
    bench.write("finetune", made)


STAGES: dict[str, Callable[[Bench], None]] = {
    "train": train,
    "ends": ends,
    "table": table,
    "specialize": specialize,
    "scratch": scratch,
    "lenet": lenet,
    "finetune": finetune,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--mnist", type=Path, required=True, help="MNIST's four .gz files")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--set", action="append", default=[], dest="overrides")
    parser.add_argument("stages", nargs="*", metavar="stage")
    options = parser.parse_args()
    torch.set_num_threads(1)
    bench = Bench(options.out.resolve(), options.mnist, options.overrides)
    for stage in options.stages or STAGES:
        STAGES[stage](bench)


if __name__ == "__main__":
    main()
