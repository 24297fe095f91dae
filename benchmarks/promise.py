"""Whether what ``compress`` delivers keeps its promise on new rows, and what that costs in size.

    MNIST_DIR=… python benchmarks/promise.py --effort 1   # about an hour of CPU time
    MNIST_DIR=… python benchmarks/promise.py --quick    # a sample, in some five minutes

Calibration rows are drawn anew for each of 20 splits at each of three sizes, and the file that
``mlflow_compress.jobs.smallest`` delivers is run in plain onnxruntime on 8,000 new rows. So is the
file that the old rule chooses: best by the estimate on every fourth row, which also ranked the
recipes.
"drop" is ``--max-drop`` with labels, "target" what a target's gates promote of the variants that
were tried. A source that comes back unchanged keeps every promise, at a rate near 1. Rows that
cannot judge, such as 32 of one class, are refused: no file, and no promise.

Writes ``benchmarks/out/promise.json`` after every file, and goes on from there.
"""

import argparse
import functools
import json
import multiprocessing
import os
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from promise_models import PLANS, Source, new_rows, source
from threadpoolctl import threadpool_limits

from mlflow_compress import packed
from mlflow_compress.errors import CompressError, ConfigError
from mlflow_compress.jobs.ladders import Ladder, ladders
from mlflow_compress.jobs.smallest import Smallest, smallest, split_rows
from mlflow_compress.measure import (
    Dataset,
    measure_accuracy,
    measure_fidelity,
    open_session,
    weight_bytes,
)
from mlflow_compress.measure import run as run_rows
from mlflow_compress.registry import decide
from mlflow_compress.targets import AccuracyLimits
from mlflow_compress.techniques import Context, apply_recipe, normalize

OUT = Path(__file__).parent / "out" / "promise.json"
ROWS = (64, 250, 1000)
SPLITS = 20
OLD = 2
"""The old rule is asked in every second split: its rate is known well enough from ten."""

SEARCH = "compress"
"""The rule that is judged; ``old`` is the one it is compared with."""

LIMITS = {"agreement": 0.99, "values": 0.01, "embedding": 0.99, "drop": 0.005}
"""Least agreement and mean cosine, and largest normalised error and drop of accuracy."""

BOUNDS = {
    "agreement": "min_agreement",
    "values": "max_error",
    "embedding": "min_cosine",
    "drop": "max_drop",
}
"""How a target says them."""

GATES = {
    "classes": ("agreement", "drop"),
    "positions": ("agreement",),
    "values": ("values",),
    "embedding": ("embedding",),
}
"""What is promised of models of each kind."""

Measure = Callable[[np.ndarray, np.ndarray, np.ndarray | None], float]


@dataclass(frozen=True)
class Case:
    """One split: a model, what is promised, how many rows there are, and which."""

    model: str
    gate: str
    rows: int
    split: int


@dataclass(frozen=True)
class Delivered:
    """A file and how much smaller it is than the source's weights.

    Attributes:
        data: the ONNX file.
        rate: compression rate, whole.
        promoted: what a target with the same limit promotes of the variants that were tried, and
            its rate; None when it promotes none.
    """

    data: bytes
    rate: float
    promoted: tuple[bytes, float] | None = None


def deliver(chosen: Source, case: Case, rows: np.ndarray, folder: Path, effort: int) -> Delivered:
    """Have ``mlflow_compress.jobs.smallest`` make a file from some rows; all of it that is used.

    With a limit of the drop the rows are labelled; techniques get the inputs of half of them.
    """
    inputs, labels = chosen.inputs[rows], chosen.labels
    limit = LIMITS[case.gate]
    if case.gate == "drop" and labels is not None:
        half = len(rows) // 2
        calibration = Dataset({"x": inputs[:half]}, name="calibration")
        evaluation = Dataset({"x": inputs[half:]}, labels[rows[half:]], "evaluation")
    else:
        calibration, evaluation = Dataset({"x": inputs}, name="calibration"), None
    limits = AccuracyLimits(confidence=0.95, **{BOUNDS[case.gate]: limit})
    kind = "classes" if chosen.kind == "positions" else chosen.kind
    found = smallest(
        chosen.model,
        limits=limits,
        outputs={chosen.model.graph.output[0].name: kind},
        work_dir=folder,
        calibration=calibration,
        evaluation=evaluation,
        effort=effort,
        seed=case.split,
    )
    assert found.best.variant is not None
    kept = split_rows(calibration)[1] if evaluation is None else evaluation
    return Delivered(
        Path(found.best.path).read_bytes(),
        found.best.variant.report.rate,
        promote(chosen, found, kept),
    )


def promote(chosen: Source, found: Smallest, rows: Dataset) -> tuple[bytes, float] | None:
    """Return what a target with the same limits promotes, each variant judged on the same rows."""
    before = run_rows(open_session(chosen.model), rows)
    files = [trial for trial in found.trials if trial.variant is not None]
    variants = []
    for number, trial in enumerate(files, 1):
        assert trial.variant is not None
        after = run_rows(packed.load(trial.path, threads=1), rows)
        accuracy = None
        if rows.has_labels:
            accuracy = measure_accuracy(after, before, rows, kinds=found.outputs)
        report = replace(
            trial.variant.report,
            accuracy=accuracy,
            fidelity=measure_fidelity(after, before, rows, found.outputs),
        )
        variants.append(replace(trial.variant, report=report, version=number))
    version = decide(variants, found.target).version
    if version is None:
        return None
    return Path(files[version - 1].path).read_bytes(), variants[version - 1].report.rate


def by_the_old_rule(chosen: Source, case: Case, rows: np.ndarray, effort: int) -> Delivered:
    """Choose by the estimate on every fourth row, by bisection, smallest first."""
    judged = np.arange(len(rows)) % 4 == 3
    seen = {"x": chosen.inputs[rows[~judged]]}
    inputs = chosen.inputs[rows[judged]]
    labels = None if chosen.labels is None else chosen.labels[rows[judged]]
    before = outputs_of(chosen.model.SerializeToString(), inputs)
    model, weights = normalize(chosen.model), weight_bytes(chosen.model)
    best = Delivered(chosen.model.SerializeToString(), 1.0)

    def passes(ladder: Ladder, rung: int) -> bool:
        nonlocal best
        recipe = ladder.rungs[rung]
        try:
            changed = apply_recipe(model, recipe, Context(calibration=seen, seed=case.split)).model
        except CompressError:
            return False
        data = packed.pack(changed, recipe.profile).SerializeToString()
        value = MEASURES[case.gate](before, outputs_of(data, inputs), labels)
        if not keeps(case.gate, value):
            return False
        best = max(best, Delivered(data, weights / len(data)), key=lambda file: file.rate)
        return True

    for ladder in ladders(effort, "portable", True):
        low, high = -1, len(ladder.rungs)
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if passes(ladder, middle) else (low, middle)
        if high < len(ladder.rungs) - 1:
            passes(ladder, high + 1)
    return best


def agreement(before: np.ndarray, after: np.ndarray, labels: np.ndarray | None = None) -> float:
    return float((classes(before) == classes(after)).mean())


def normalised_error(
    before: np.ndarray, after: np.ndarray, labels: np.ndarray | None = None
) -> float:
    return float(((before - after) ** 2).mean() / before.var())


def mean_cosine(before: np.ndarray, after: np.ndarray, labels: np.ndarray | None = None) -> float:
    norms = np.linalg.norm(before, axis=-1) * np.linalg.norm(after, axis=-1)
    return float(((before * after).sum(axis=-1) / np.maximum(norms, 1e-12)).mean())


def drop(before: np.ndarray, after: np.ndarray, labels: np.ndarray | None = None) -> float:
    assert labels is not None
    return float((classes(before) == labels).mean() - (classes(after) == labels).mean())


MEASURES: dict[str, Measure] = {
    "agreement": agreement,
    "values": normalised_error,
    "embedding": mean_cosine,
    "drop": drop,
}


def classes(output: np.ndarray) -> np.ndarray:
    if output.shape[-1] == 1:
        return (output[..., 0] > 0.5).astype(np.int64)
    return np.asarray(output.argmax(axis=-1))


def keeps(gate: str, value: float) -> bool:
    """Whether a measured value is within the limit; not a number is not."""
    if BOUNDS[gate].startswith("min"):
        return value >= LIMITS[gate] - 1e-9
    return value <= LIMITS[gate] + 1e-9


def outputs_of(data: bytes, inputs: np.ndarray) -> np.ndarray:
    """Run a file in plain onnxruntime."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    parts = [
        session.run(None, {name: inputs[i : i + 2000]})[0] for i in range(0, len(inputs), 2000)
    ]
    return np.concatenate(parts).astype(np.float64)


@functools.lru_cache(maxsize=1)
def loaded(name: str, mnist: Path) -> tuple[Source, np.ndarray]:
    """Return a source and its outputs on the new rows."""
    chosen = source(name, mnist)
    return chosen, outputs_of(chosen.model.SerializeToString(), chosen.inputs[new_rows(chosen)])


def run(case: Case, mnist: Path, effort: int) -> dict[str, Any]:
    """Make the files of one split and look at them on the new rows."""
    began = time.perf_counter()
    chosen, before = loaded(case.model, mnist)
    new = new_rows(chosen)
    labels = None if chosen.labels is None else chosen.labels[new]
    rng = np.random.default_rng([case.split, case.rows])
    rows = rng.choice(new.start, case.rows, replace=False)
    with threadpool_limits(1), tempfile.TemporaryDirectory() as folder:
        files, refused = {}, {}
        try:
            files[SEARCH] = deliver(chosen, case, rows, Path(folder), effort)
        except ConfigError as error:
            refused = {"refused": str(error)}
        if case.split % OLD == 0:
            files["old"] = by_the_old_rule(chosen, case, rows, effort)
        if SEARCH in files and (promoted := files[SEARCH].promoted) is not None:
            files["target"] = Delivered(*promoted)
        found: dict[str, Any] = {**refused}
        for rule, file in files.items():
            after = outputs_of(file.data, chosen.inputs[new])
            value = MEASURES[case.gate](before, after, labels)
            found[rule] = {"value": value, "kept": keeps(case.gate, value), "rate": file.rate}
    return {**asdict(case), **found, "seconds": time.perf_counter() - began}


def all_cases(models: list[str], rows: list[int], splits: int) -> Iterator[Case]:
    """Split by split, so that what was stopped early has some of each."""
    for split in range(splits):
        for model in models:
            for gate in GATES[PLANS[model].kind]:
                for count in rows:
                    yield Case(model, gate, count, split)


def table(results: list[dict[str, Any]]) -> str:
    """Return a table of how often the promise was kept, and of median rates."""
    groups: dict[tuple[str, str, int], list[dict[str, Any]]] = defaultdict(list)
    for result in results:
        groups[result["model"], result["gate"], result["rows"]].append(result)
    lines = [
        f"{'model':18}{'promise':12}{'rows':>6}{'kept':>22}{'rate':>8}"
        f"{'target kept':>14}{'rate':>8}{'old kept':>12}{'rate':>8}"
    ]

    def cells(found: list[dict[str, Any]], rule: str, width: int) -> str:
        those = [result[rule] for result in found if rule in result]
        kept = f"{sum(one['kept'] for one in those)} of {len(those)}" if those else "-"
        if rule == SEARCH and (refused := sum("refused" in result for result in found)):
            kept += f", {refused} refused"
        if not those:
            return f"{kept:>{width}}{'-':>8}"
        return f"{kept:>{width}}{statistics.median(one['rate'] for one in those):>8.2f}"

    order = {name: number for number, name in enumerate(PLANS)}
    for key in sorted(groups, key=lambda key: (order[key[0]], *key[1:])):
        model, gate, rows = key
        text = f"{model:18}{gate:12}{rows:>6}{cells(groups[key], SEARCH, 22)}"
        lines.append(f"{text}{cells(groups[key], 'target', 14)}{cells(groups[key], 'old', 12)}")
    for rows in sorted({result["rows"] for result in results}):
        those = [result for result in results if result["rows"] == rows]
        shares = [
            f"{rule} {100 * statistics.mean(r[rule]['kept'] for r in those if rule in r):.1f} %"
            for rule in (SEARCH, "target", "old")
            if any(rule in r for r in those)
        ]
        lines.append(f"kept with {rows} rows: {', '.join(shares)}")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--mnist", type=Path, default=os.environ.get("MNIST_DIR"))
    parser.add_argument("--only", choices=PLANS, action="append", help="only this model")
    parser.add_argument("--rows", type=int, action="append", help="only so many rows")
    parser.add_argument("--splits", type=int, default=SPLITS)
    parser.add_argument("--effort", type=int, choices=range(1, 6), default=2)
    parser.add_argument("--workers", type=int, default=os.cpu_count())
    parser.add_argument("--quick", action="store_true", help="3 splits, effort 1")
    parser.add_argument("--fresh", action="store_true", help="forget earlier results")
    parser.add_argument("--table", action="store_true", help="only print what there is")
    options = parser.parse_args()
    if options.mnist is None:
        parser.error("give --mnist or set MNIST_DIR to a folder with MNIST's files")
    out, splits, effort = OUT, options.splits, options.effort
    if options.quick:
        out, splits, effort = OUT.with_name("promise-quick.json"), min(splits, 3), 1
    stored = {"effort": effort, "limits": LIMITS, "results": []}
    if out.exists() and not options.fresh:
        earlier = json.loads(out.read_text())
        if earlier["effort"] == effort and earlier["limits"] == LIMITS:
            stored = earlier
    results: list[dict[str, Any]] = stored["results"]
    if not options.table:
        done = {Case(r["model"], r["gate"], r["rows"], r["split"]) for r in results}
        models, rows = options.only or list(PLANS), options.rows or list(ROWS)
        cases = [case for case in all_cases(models, rows, splits) if case not in done]
        for name in models:
            source(name, options.mnist)  # trained once, not by every worker
        run_all(cases, options, effort, results, lambda: write(out, stored))
    print(table(results))


def run_all(
    cases: list[Case],
    options: argparse.Namespace,
    effort: int,
    results: list[dict[str, Any]],
    store: Callable[[], None],
) -> None:
    """Run the cases in processes of their own, and store after each."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(options.workers, context) as pool:
        pending = {pool.submit(run, case, options.mnist, effort): case for case in cases}
        for number, future in enumerate(as_completed(pending), 1):
            if future.exception() is not None:
                pool.shutdown(cancel_futures=True)
            result = future.result()
            results.append(result)
            store()
            print(f"{number}/{len(cases)} {line(result)}", flush=True)


def line(result: dict[str, Any]) -> str:
    """Return what came of one split, in a line."""
    files = [
        f"{rule} {result[rule]['rate']:.2f}x {result[rule]['value']:.4f} "
        f"{'kept' if result[rule]['kept'] else 'BROKEN'}"
        for rule in (SEARCH, "target", "old")
        if rule in result
    ]
    where = f"{result['model']}, {result['gate']}, {result['rows']} rows, split {result['split']}"
    files += ["refused"] if "refused" in result else []
    return f"{where}: {'; '.join(files)} ({result['seconds']:.1f} s)"


def write(path: Path, content: dict[str, Any]) -> None:
    """Write JSON to a sibling and rename it, so that a run that is killed loses nothing."""
    path.parent.mkdir(exist_ok=True)
    beside = path.with_suffix(".new")
    beside.write_text(json.dumps(content, indent=1))
    beside.replace(path)


if __name__ == "__main__":
    main()
