"""How small real models get at how little loss, beside onnxruntime's int8; nothing is trained.

    MNIST_DIR=… python benchmarks/techniques.py --only magika

Settings are chosen by ``mlflow_compress.jobs.smallest`` on validation rows, from calibration rows;
the test rows are scored once for each file that is reported, with the paired 95 % interval of the
drop. (The LeNets, which nobody ships, are trained once as sources; see ``technique_data.py``.)

int8 is static QDQ by ``onnxruntime.quantization``, weights per channel where that works, and the
same by Olive when ``--olive-python`` names an interpreter that has it. Of ours, "as good" is the
smallest file that loses no more than int8 does on the validation rows that choose (half of them),
"smallest" the smallest within the limit there that the other half confirm, and "at goal" the one
of those as small as the goal whose outputs are closest to the source's there (KL divergence).
Writes ``benchmarks/out/techniques.json``, one row after the other.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import technique_data as rows
import zstandard
from technique_peers import int8, olive_int8, zipped
from threadpoolctl import threadpool_limits

from mlflow_compress import measure, packed
from mlflow_compress.jobs.ladders import Ladder, ladders
from mlflow_compress.jobs.smallest import Smallest, Watcher, halves, smallest
from mlflow_compress.measure import Dataset
from mlflow_compress.measure.intervals import percentile_interval, resampled
from mlflow_compress.measure.metrics import Rows, Scores, find_metric
from mlflow_compress.measure.outputs import Evidence
from mlflow_compress.records import Gate, Recipe, Step, Trial
from mlflow_compress.targets import AccuracyLimits
from mlflow_compress.techniques import Context, apply_recipe, normalize, validate_recipe
from mlflow_compress.techniques.graph.opset import raise_opset

OUT = Path(__file__).parent / "out" / "techniques.json"


@dataclass(frozen=True)
class Row:
    """A task, what it may lose in the metric's unit, and how small it is to get.

    Models that take minutes for each trial have a ladder of their own, of bits per weight.
    """

    make: Callable[[argparse.Namespace], rows.Task]
    max_drop: float
    rate: float
    effort: int = 2
    bits: tuple[float, ...] = ()

    def plan(self, bits: tuple[float, ...]) -> tuple[Ladder, ...] | None:
        """Return what is tried in place of the ladders of the effort, for these bits if any."""
        fold = Step("fold", {"names": True})
        rungs = [
            Recipe((fold, Step("entropy_share", {"bits": one})), "compact")
            for one in bits or self.bits
        ]
        ladder = Ladder("entropy_share", tuple(validate_recipe(recipe) for recipe in rungs))
        return (ladder,) if rungs else None


ROWS = {
    "lenet-5": Row(lambda o: rows.lenet("lenet-5", o.mnist), 0.002, 40),
    "lenet-300-100": Row(lambda o: rows.lenet("lenet-300-100", o.mnist), 0.002, 30),
    "lenet-5-fashion": Row(lambda o: rows.lenet("lenet-5", fashion(), 5), 0.002, 40),
    "magika": Row(lambda o: rows.magika(o.files), 0.005, 10, bits=(3.3, 2.8, 2.4, 2.1, 1.8)),
    "crepe": Row(lambda o: rows.crepe(), 0.005, 10, bits=(3.2, 2.4, 1.8, 1.3)),
    "ddddocr": Row(lambda o: rows.ddddocr(), 0.005, 54.1 / 9, bits=(4.0, 2.8, 2.0, 1.4)),
}
REPAIR = ("lenet-300-100", "magika")


def fashion() -> Path:
    """Folder with Fashion-MNIST's four files, from Debian's package."""
    found = next(rows.debian("dataset-fashion-mnist").rglob("train-images-idx3-ubyte.gz"))
    return found.parent


class Judge:
    """Scores variants beside their source on one set of rows."""

    def __init__(self, task: rows.Task, data: Dataset) -> None:
        self.task, self.data = task, data
        self.source = measure.run(measure.open_session(task.model), data)
        self.outputs = measure.tell_outputs(Evidence(task.model, self.source, data.labels))

    def source_score(self) -> float:
        """Return the source's own value of the metric."""
        return measure.score(self.source, self.data, self.task.metric)

    def score(self, opened: Any, data: Dataset | None = None) -> dict[str, Any]:
        """Return value, drop and interval; ``data`` are the same rows with other labels."""
        outputs = measure.run(opened, self.data)
        if data is not None:
            return self._against(outputs, data)
        found = measure.measure_accuracy(outputs, self.source, self.data, self.task.metric)
        fidelity = measure.measure_fidelity(
            outputs, self.source, self.data, self.outputs, level=None
        )
        interval = found.drop_interval
        return {
            "value": found.value,
            "drop": found.drop,
            "drop_interval": [interval.low, interval.high],
            "agreement": fidelity.agreement,
        }

    def _against(self, outputs: Mapping[str, np.ndarray], data: Dataset) -> dict[str, Any]:
        metric = find_metric(self.task.metric)

        def scores(given: Mapping[str, np.ndarray], wanted: Dataset) -> Scores:
            read = {name: given[name] for name in metric.reads(given)}
            sound = np.zeros(wanted.rows, bool)
            return metric.score(
                Rows(read, wanted.labels_by_name, wanted.inputs, sound, metric.worst)
            )

        ours, theirs = scores(outputs, data), scores(self.source, self.data)
        sign = 1 if metric.higher_is_better else -1

        def drop(chosen: np.ndarray) -> float:
            return sign * (theirs.of(chosen) - ours.of(chosen))

        drops = [drop(chosen) for chosen in resampled(data.rows, 2000, seed=0)]
        interval = percentile_interval(np.array(drops))
        return {
            "value": ours.value,
            "drop": drop(np.arange(data.rows)),
            "drop_interval": [interval.low, interval.high],
        }


def recipe_text(recipe: Recipe) -> str:
    def text(step: Step) -> str:
        telling = {"bits", "sparsity", "clusters", "ratio"} & set(step.settings)
        return step.technique + "".join(f" {step.settings[k]:g}" for k in sorted(telling))

    return " + ".join(text(step) for step in recipe.steps) or "lossless"


def run_row(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """Compress one model and score the files that are reported on the test rows."""
    row = ROWS[name]
    task = row.make(options)
    if options.rows < 1:
        kept = {d.name: d.head(int(options.rows * d.rows)) for d in (task.validation, task.test)}
        task = replace(
            task,
            **kept,
            vendor={
                name: (model, labelled.head(kept["test"].rows))
                for name, (model, labelled) in task.vendor.items()
            },
        )
    size = task.model.ByteSize()
    parts = {d.name: d.rows for d in (task.calibration, task.validation, task.test)}
    print(f"\n{name}: {size:,} bytes, rows {parts}", flush=True)
    judge = Judge(task, task.test)
    result: dict[str, Any] = {
        "name": name, "bytes": size, "rows": parts, "metric": task.metric,
        "source": judge.source_score(), "max_drop": row.max_drop, "wanted_rate": row.rate,
        "variants": {},
    }  # fmt: skip
    _show("source", {"bytes": size, "value": result["source"]}, size)

    def report(label: str, found: dict[str, Any]) -> None:
        found["rate"] = size / found["bytes"]
        result["variants"][label] = found
        _show(label, found, size)

    calibration = Dataset(task.calibration.inputs, name="calibration")
    allowed = 0.0
    try:
        data, how = int8(task.model, calibration)
    except Exception as error:  # noqa: BLE001 - a peer that fails is a result
        result["int8_failed"] = f"{type(error).__name__}: {str(error).splitlines()[0]}"
        print(f"  int8 by onnxruntime failed: {result['int8_failed']}", flush=True)
    else:
        opened = measure.open_session(data)
        # on the rows that our variants are chosen by
        choosing, _ = halves(task.validation)
        allowed = max(0.0, Judge(task, choosing).score(opened)["drop"])
        found = judge.score(opened)
        report("int8", {"bytes": len(data), **found, "recipe": how})
        report("int8 + zip", {"bytes": zipped(data), **found})
        coded = zstandard.ZstdCompressor(level=19).compress(data)
        report("int8 + zstd-19", {"bytes": len(coded), **found})
    if options.olive_python is not None:
        try:
            data, how = olive_int8(options.olive_python, task.model, calibration)
        except Exception as error:  # noqa: BLE001 - as above
            result["olive_failed"] = f"{type(error).__name__}: {str(error).splitlines()[0]}"
            print(f"  int8 by Olive failed: {result['olive_failed']}", flush=True)
        else:
            found = judge.score(measure.open_session(data))
            report("int8 by Olive", {"bytes": len(data), **found, "recipe": how})
    for label, (model, labelled) in task.vendor.items():
        opened = measure.open_session(model)
        report(label, {"bytes": model.ByteSize(), **judge.score(opened, labelled)})

    began = time.process_time()

    def search(
        folder: str, max_drop: float, plan: Sequence[Ladder] | None, effort: int
    ) -> Smallest:
        return smallest(
            task.model,
            limits=AccuracyLimits(max_drop=max_drop),
            work_dir=Path(folder),
            calibration=calibration,
            evaluation=task.validation,
            metric=task.metric,
            profile="compact",
            effort=effort,
            plan=plan,
            watcher=Shown(size),
        )

    effort = options.effort or row.effort
    plan = None if options.effort else row.plan(tuple(options.bits or ()))
    if options.ladder:
        plan = tuple(x for x in ladders(effort, "compact", True) if options.ladder in x.name)
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryDirectory() as other:
        done = search(folder, row.max_drop, plan, effort)
        trials = [trial for trial in done.trials if trial.variant is not None]
        if plan is None and allowed < row.max_drop:  # few of them are gentle enough
            trials += [t for t in search(other, allowed, None, 1).trials if t.variant is not None]
        result["effort"] = effort if plan is None else None
        result["cpu_seconds"] = time.process_time() - began
        result["trials"] = [_brief(trial) for trial in trials]
        chosen = {"ours, as good": _as_good(trials, allowed), "ours, smallest": done.best,
                  "ours, at goal": _at_goal(trials, size / row.rate)}  # fmt: skip
        for label, trial in chosen.items():
            if trial is None:
                continue
            report(label, {**_judged(trial, judge), **_brief(trial)})
            unpacked = raise_opset(packed.unpack(Path(trial.path)), 13)
            portable = packed.pack(unpacked, "portable").ByteSize()
            result["variants"][label]["portable_bytes"] = portable
    return result


def _judged(trial: Trial, judge: Judge) -> dict[str, Any]:
    path = Path(trial.path)
    return {"bytes": path.stat().st_size, **judge.score(packed.load(path, threads=1))}


def _as_good(trials: Sequence[Trial], allowed: float) -> Trial | None:
    """Return the smallest trial that loses no more than ``allowed`` on the validation rows."""
    fits = [t for t in trials if t.variant.report.accuracy.drop <= allowed]
    return min(fits, key=lambda t: t.variant.report.size_bytes, default=None)


def _at_goal(trials: Sequence[Trial], size: float) -> Trial | None:
    """Return the trial of at most ``size`` bytes that is closest to the source by validation."""

    def distance(trial: Trial) -> float:
        report = trial.variant.report
        kl = None if report.fidelity is None else report.fidelity.kl
        return report.accuracy.drop if kl is None else kl

    fits = [t for t in trials if t.variant.report.size_bytes <= size]
    return min(fits, key=distance, default=None)


def _brief(trial: Trial) -> dict[str, Any]:
    report = trial.variant.report
    return {
        "recipe": recipe_text(trial.recipe),
        "bytes": report.size_bytes,
        "validation_drop": report.accuracy.drop,
        "validation_kl": None if report.fidelity is None else report.fidelity.kl,
        "validation_agreement": None if report.fidelity is None else report.fidelity.agreement,
    }


class Shown(Watcher):
    """Prints every trial."""

    def __init__(self, size: int) -> None:
        self.size = size

    def trial(self, trial: Trial, gates: tuple[Gate, ...]) -> None:
        """Print a line."""
        if trial.variant is None:
            print(f"    {recipe_text(trial.recipe)}: {trial.error}", flush=True)
            return
        found = _brief(trial)
        print(f"    {found['recipe']}: {self.size / found['bytes']:.1f}x, validation drop "
              f"{100 * found['validation_drop']:.2f}", flush=True)  # fmt: skip


def _show(label: str, found: dict[str, Any], size: int) -> None:
    text = f"  {label:16} {found['bytes']:>11,} bytes {size / found['bytes']:6.1f}x  "
    text += f"{100 * found['value']:6.2f} %"
    if "drop" in found:
        text += f", lost {100 * found['drop']:5.2f} points"
    if "drop_interval" in found:
        low, high = found["drop_interval"]
        text += f" ({100 * low:.2f} to {100 * high:.2f})"
    print(text + f"  {found.get('recipe', '')}", flush=True)


def run_repair(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """Compare pruning by magnitude at 90 % with and without repair, on the test rows."""
    task = ROWS[name].make(options)
    model, judge = normalize(task.model), Judge(task, task.test)
    outputs = {}
    for repair in (False, True):
        step = Step("prune", {"sparsity": 0.9, "method": "magnitude", "repair": repair})
        with threadpool_limits(1):
            context = Context(calibration=task.calibration.inputs)
            made = apply_recipe(model, Recipe((step,)), context).model
        outputs[repair] = measure.run(measure.open_session(made), task.test)
    found = measure.measure_accuracy(outputs[False], outputs[True], task.test, task.metric)
    interval = found.drop_interval
    result = {
        "name": f"repair of {name}", "rows": task.test.rows, "source": judge.source_score(),
        "magnitude": found.value, "repaired": found.source, "gain": found.drop,
        "gain_interval": [interval.low, interval.high],
    }  # fmt: skip
    print(
        f"\n{name}, 90 % pruned by magnitude: {100 * found.value:.2f} %, repaired "
        f"{100 * found.source:.2f} %, {100 * found.drop:.2f} points more "
        f"({100 * interval.low:.2f} to {100 * interval.high:.2f}), source "
        f"{100 * result['source']:.2f} %, {task.test.rows} rows",
        flush=True,
    )
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    names = [*ROWS, *(f"repair-{name}" for name in REPAIR)]
    parser.add_argument("--only", choices=names, action="append", help="only this row")
    parser.add_argument("--mnist", type=Path, default=os.environ.get("MNIST_DIR"))
    parser.add_argument("--effort", type=int, choices=range(1, 6), help="as of the command")
    parser.add_argument("--ladder", help="only the effort's ladders with this in their names")
    parser.add_argument("--bits", type=float, nargs="+", help="entropy_share at these bits alone")
    parser.add_argument(
        "--rows",
        type=float,
        default=1,
        help="share of the validation and test rows, for a quick look",
    )
    parser.add_argument(
        "--olive-python", type=Path, help="interpreter with olive-ai, to have its int8 beside"
    )
    parser.add_argument(
        "--files", type=Path, action="append", help="folder of files for magika [/usr and this env]"
    )
    options = parser.parse_args()
    options.files = options.files or [Path("/usr"), Path(sys.prefix)]
    chosen = options.only or names
    if options.mnist is None and any("lenet" in name and "fashion" not in name for name in chosen):
        parser.error("set MNIST_DIR or --mnist to a folder with MNIST's four .gz files")
    OUT.parent.mkdir(exist_ok=True)
    for name in chosen:
        repaired = name.startswith("repair-")
        made = run_repair(name[7:], options) if repaired else run_row(name, options)
        held = {row["name"]: row for row in (json.loads(OUT.read_text()) if OUT.exists() else [])}
        held[made["name"]] = made
        OUT.write_text(json.dumps(list(held.values()), indent=2))


if __name__ == "__main__":
    main()
