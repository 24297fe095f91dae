"""The same eight points of static int8, searched by mlflow-compress and by Olive.

    python benchmarks/olive_search.py --olive-python /path/to/venv/bin/python [--repeats 3]

Trains a small convolutional network on scikit-learn's digits (needs torch and scikit-learn), writes
it and its rows to a temporary folder, and runs the two commands that a user runs there, in turns:

    mlflow-compress run compress.yaml     # benchmarks/olive/compress.yaml
    python -m olive run --config olive.yaml    # benchmarks/olive/olive.yaml and olive_rows.py

Both search per channel x method x reduced range on the same calibration rows, score all variants on
the same evaluation rows and measure latency, each with its own defaults. Each run has a folder of
its own, so that nothing is reused. MLflow takes seconds to make the tables of a new sqlite
database; ours therefore runs twice, on an empty one that was made before and on a new one.

Time is that of the whole command. Olive sends telemetry when it ends, in spite of the variable that
turns it off, and without a network waits for that some ten seconds: its time until its last line of
log is given too. CPU time is that of the command and of every process that it
started. Accuracy is counted again here, on the files, for both tools alike, and so is the rate:
bytes of the source's weights by bytes of the file.

Olive 0.13 needs ``requests`` besides what it asks for.
"""

import argparse
import contextlib
import ctypes
import hashlib
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlparse
from urllib.request import url2pathname

import numpy as np
import onnx
import yaml

from mlflow_compress import measure, packed

HERE = Path(__file__).resolve().parent
FILES = HERE / "olive"
OUT = HERE / "out" / "olive_search.json"
CONFIGS = {"ours": ("compress.yaml",), "olive": ("olive.yaml", "olive_rows.py")}
TOOLS = {
    "ours": "mlflow-compress",
    "ours, new store": "the same, new database",
    "ours, inline": "the same, `executor: inline`",
    "olive": "Olive",
}
MAX_DROP = 0.005
STAMP = re.compile(r"^\[(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3})\]", re.MULTILINE)
"""How Olive begins each line of its log; ours has no times."""
OURS = "from mlflow_compress.cli.main import main; main()"
"""The command ``mlflow-compress``, of the package that this file belongs to."""
SUBREAPER = 36
"""PR_SET_CHILD_SUBREAPER of Linux: what a command leaves behind becomes a child of ours."""


@dataclass(frozen=True)
class Point:
    """A variant that was searched.

    Attributes:
        name: its settings.
        size: bytes of its file.
        sha256: digest of its file.
        rate: bytes of the source's weights by those of the file.
        accuracy: share of the evaluation rows, counted here.
        reported: accuracy that the tool reports.
        latency: median milliseconds of a call that the tool reports.
    """

    name: str
    size: int
    sha256: str
    rate: float
    accuracy: float
    reported: float
    latency: float


@dataclass(frozen=True)
class Run:
    """One run of a command: seconds, seconds of work, CPU seconds, exit code, what it found."""

    wall: float
    work: float
    cpu: float
    code: int
    points: list[Point]
    log: str


def digits(seed: int = 0) -> tuple[onnx.ModelProto, dict[str, dict[str, np.ndarray]]]:
    """Return a trained network and the rows by role."""
    import torch
    from sklearn.datasets import load_digits

    from mlflow_compress.techniques.training.export import export_torch

    images, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(seed).permutation(len(labels))
    images = (images[order] / 16).astype(np.float32).reshape(-1, 1, 8, 8)
    labels = labels[order].astype(np.int64)
    cuts = {
        "train": slice(0, 1000),
        "calibration": slice(1000, 1128),
        "evaluation": slice(1128, None),
    }
    rows = {role: {"image": images[cut], "labels": labels[cut]} for role, cut in cuts.items()}

    torch.manual_seed(seed)
    torch.set_num_threads(1)
    net = torch.nn.Sequential(
        torch.nn.Conv2d(1, 16, 3, padding=1),
        torch.nn.ReLU(),
        torch.nn.Conv2d(16, 32, 3, padding=1),
        torch.nn.ReLU(),
        torch.nn.MaxPool2d(2),
        torch.nn.Flatten(),
        torch.nn.Linear(512, 128),
        torch.nn.ReLU(),
        torch.nn.Linear(128, 10),
    )
    optimizer = torch.optim.Adam(net.parameters(), 2e-3)
    given = torch.from_numpy(rows["train"]["image"])
    wanted = torch.from_numpy(rows["train"]["labels"])
    for _ in range(15):
        for some in torch.randperm(len(given)).split(50):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(net(given[some]), wanted[some]).backward()
            optimizer.step()
    return export_torch(net, {"image": rows["train"]["image"][:8]}), rows


def execute(command: list[str], folder: Path) -> tuple[float, float, float, int, str]:
    """Run a command.

    Returns:
        Its seconds, those until its last line of log that has a time, CPU seconds with all its
        descendants', its exit code and its output.
    """
    environment = os.environ | {"OLIVE_DISABLE_TELEMETRY": "1", "OMP_NUM_THREADS": "1"}
    log = folder / "log.txt"
    begin, began = time.perf_counter(), time.time()
    with log.open("wb") as file:
        started = subprocess.Popen(
            command, cwd=folder, env=environment, stdout=file, stderr=subprocess.STDOUT
        )
        _, status, used = os.wait4(started.pid, 0)
    wall = time.perf_counter() - begin
    started.returncode = os.waitstatus_to_exitcode(status)
    cpu = used.ru_utime + used.ru_stime
    with contextlib.suppress(ChildProcessError):
        while True:  # what the command did not wait for
            _, _, used = os.wait3(0)
            cpu += used.ru_utime + used.ru_stime
    text = log.read_text(errors="replace")
    stamps = STAMP.findall(text)
    work = datetime.fromisoformat(stamps[-1]).timestamp() - began if stamps else wall
    return wall, work, cpu, started.returncode, text


class Judge:
    """Counts accuracy and rate of files for both tools alike."""

    def __init__(self, model: onnx.ModelProto, rows: dict[str, np.ndarray]) -> None:
        self.weights = measure.weight_bytes(model)
        self.data = measure.Dataset({"image": rows["image"]}, rows["labels"], "evaluation")
        self.accuracy = self._accuracy(measure.open_session(model))

    def point(self, name: str, path: Path, reported: float, latency: float) -> Point:
        """Score a file."""
        size = path.stat().st_size
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        accuracy = self._accuracy(packed.load(path))
        return Point(name, size, digest, self.weights / size, accuracy, reported, latency)

    def _accuracy(self, session: Any) -> float:
        return measure.score(measure.run(session, self.data), self.data, "accuracy")


def ours(folder: Path, judge: Judge) -> list[Point]:
    """Read what mlflow-compress logged, from the tracking store."""
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{folder / 'mlflow.db'}")
    experiments = [one.experiment_id for one in client.search_experiments()]
    found = []
    for run in client.search_runs(experiments):
        if "rate" not in run.data.metrics:
            continue
        model = client.get_logged_model(run.outputs.model_outputs[0].model_id)
        path = Path(folder, url2pathname(urlparse(model.artifact_location).path))
        values, metrics = run.data.params, run.data.metrics
        name = name_of(
            values.get("quantize.per_channel", "True") == "True",
            values.get("quantize.method", "minmax"),
            values.get("quantize.reduce_range", "False") == "True",
        )
        file = next(path.rglob("*.onnx"))
        found.append(judge.point(name, file, metrics["accuracy"], metrics["latency_p50_ms"]))
    return found


def olives(folder: Path, judge: Judge) -> list[Point]:
    """Read what Olive wrote, from its footprint."""
    path = folder / "found" / "footprint.json"
    found = []
    for node in json.loads(path.read_text()).values() if path.exists() else ():
        if node["from_pass"] is None or not node["metrics"]:
            continue
        settings, metrics = node["pass_run_config"], node["metrics"]["value"]
        name = name_of(
            settings["per_channel"], settings["calibrate_method"], settings["reduce_range"]
        )
        found.append(
            judge.point(
                name,
                Path(node["model_config_data"]["config"]["model_path"]),
                metrics["accuracy-accuracy_score"]["value"],
                metrics["latency-p50"]["value"],
            )
        )
    return found


def name_of(per_channel: bool, method: str, reduce_range: bool) -> str:
    """Return one spelling of a point's settings for both tools."""
    scale = "per channel" if per_channel else "per tensor"
    return f"{scale}, {method.lower()}, {7 if reduce_range else 8} bit"


def lines(tool: str) -> dict[str, int]:
    """Return non-blank lines that a user writes, and as YAML in block style, one value a line."""
    texts = {name: (FILES / name).read_text() for name in CONFIGS[tool]}
    plain = sum(1 for text in texts.values() for line in text.splitlines() if line.strip())
    block = sum(
        len(yaml.safe_dump(yaml.safe_load(text)).splitlines())
        for name, text in texts.items()
        if name.endswith(".yaml")
    )
    return {"written": plain, "yaml_block": block}


def best(points: list[Point], least: float) -> Point | None:
    """Return the point of the highest rate among those of at least that accuracy."""
    return max((p for p in points if p.accuracy >= least), key=lambda p: p.rate, default=None)


def run_once(tool: str, options: argparse.Namespace, given: Path, judge: Judge) -> Run:
    """Run one tool in a folder of its own, which is deleted."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        for path in given.iterdir():  # the new database is made by the run
            if path.name != "mlflow.db" or tool in ("ours", "ours, inline"):
                shutil.copy(path, folder)
        if tool == "olive":
            command = [options.olive_python, "-m", "olive", "run", "--config", "olive.yaml"]
        else:
            command = [sys.executable, "-c", OURS, "run", "compress.yaml"]
            if tool == "ours, inline":
                command += ["--set", "search.executor=inline"]
        wall, work, cpu, code, log = execute(command, folder)
        points = (olives if tool == "olive" else ours)(folder, judge)
    return Run(wall, work, cpu, code, sorted(points, key=lambda p: p.name), log)


def prepare(folder: Path) -> Judge:
    """Write what both commands are given, and an empty tracking store."""
    from mlflow import MlflowClient

    model, rows = digits()
    onnx.save(model, folder / "digits.onnx")
    for role in ("calibration", "evaluation"):
        np.savez(folder / f"{role}.npz", **rows[role])
    for names in CONFIGS.values():
        for name in names:
            shutil.copy(FILES / name, folder)
    MlflowClient(f"sqlite:///{folder / 'mlflow.db'}").search_experiments()
    return Judge(model, rows["evaluation"])


def summary(tool: str, runs: list[Run], judge: Judge, equal: float) -> dict[str, Any]:
    """Return one tool's row of the table."""
    points = runs[-1].points
    within, same = best(points, judge.accuracy - MAX_DROP), best(points, equal)
    return {
        "tool": tool,
        "exit_codes": [run.code for run in runs],
        "points": [len(run.points) for run in runs],
        "different_files": len({p.sha256 for p in points}),
        "wall": statistics.median(run.wall for run in runs),
        "cpu": statistics.median(run.cpu for run in runs),
        "work": statistics.median(run.work for run in runs),
        "walls": [run.wall for run in runs],
        "cpus": [run.cpu for run in runs],
        "lines": lines("olive" if tool == "olive" else "ours"),
        "best_within": None if within is None else asdict(within),
        "best_equal": None if same is None else asdict(same),
        "found": [asdict(p) for p in points],
    }


COLUMNS = (
    "",
    "wall time, s",
    "until the last line of log, s",
    "CPU time, s",
    "points (files that differ)",
    "lines written",
    "YAML values, a line each",
    "best rate within 0.5 points",
    "best rate at the best accuracy that both reach",
)


def show(rows: list[dict[str, Any]]) -> None:
    """Print the table as Markdown."""
    print(f"| {' | '.join(COLUMNS)} |\n|{'---|' * len(COLUMNS)}")
    for row in rows:
        cells = [
            TOOLS[row["tool"]],
            f"{row['wall']:.1f}",
            f"{row['work']:.1f}",
            f"{row['cpu']:.1f}",
            f"{row['points'][-1]} ({row['different_files']})",
            str(row["lines"]["written"]),
            str(row["lines"]["yaml_block"]),
            *(rate_of(row[which]) for which in ("best_within", "best_equal")),
        ]
        print(f"| {' | '.join(cells)} |")


def rate_of(point: dict[str, Any] | None) -> str:
    """Return a point's rate and accuracy, for the table."""
    return "none" if point is None else f"{point['rate']:.2f}x, {point['accuracy']:.2%}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--olive-python", required=True, help="python of Olive's environment")
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    ctypes.CDLL(None).prctl(SUBREAPER, 1, 0, 0, 0)
    done: dict[str, list[Run]] = {tool: [] for tool in TOOLS}
    with tempfile.TemporaryDirectory() as place:
        given = Path(place)
        judge = prepare(given)
        for _ in range(options.repeats):
            for tool in TOOLS:
                run = run_once(tool, options, given, judge)
                print(
                    f"{tool}: {run.wall:.1f} s ({run.work:.1f} s of work), {run.cpu:.1f} s CPU, "
                    f"exit code {run.code}, {len(run.points)} points",
                    file=sys.stderr,
                )
                if run.code or not run.points:
                    print(run.log, file=sys.stderr)
                done[tool].append(run)
    # the lower of both tools' best accuracies: what each can reach
    equal = min(
        max((p.accuracy for p in done[tool][-1].points), default=1.0) for tool in ("ours", "olive")
    )
    rows = [summary(tool, runs, judge, equal) for tool, runs in done.items()]
    OUT.parent.mkdir(exist_ok=True)
    OUT.write_text(json.dumps({"source": judge.accuracy, "rows": rows}, indent=1))
    show(rows)


if __name__ == "__main__":
    main()
