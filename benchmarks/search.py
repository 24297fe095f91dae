"""What search strategies find and what searching costs, on the LeNet of examples/lenet_mnist.

    python benchmarks/search.py strategies    # hypervolume of gp, tpe, random … against the grid
    python benchmarks/search.py prefix        # time saved by steps that recipes have in common
    python benchmarks/search.py overhead      # time per trial besides technique and measurement
    python benchmarks/search.py workers       # trials per minute of two processes beside one

The grid's points are measured once (benchmarks/out/search_grid.json); strategies then look them up,
so that seeds cost nothing but the strategy's own time. The hypervolume is that of powers of ten of
the rate and accuracy above ten points below the source's (mlflow_compress.search.volume).
"""

import argparse
import hashlib
import importlib.util
import json
import os
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from mlflow_compress import measure
from mlflow_compress.records import Recipe, Trial, Variant, from_dict, to_dict
from mlflow_compress.search import (
    Budget,
    Evaluator,
    NullObserver,
    Options,
    SearchInfo,
    SearchOptions,
    Space,
    StepCache,
    TrialEvaluator,
    get_executor,
    get_strategy,
    look_at_source,
    run_search,
    volume,
)
from mlflow_compress.techniques import normalize

HERE = Path(__file__).resolve().parent
OUT = HERE / "out"
OBJECTIVES = ("rate", "accuracy")
INFO = SearchInfo("benchmark", "lenet", "0" * 64, 1, "grid")

SPACE = [
    [
        {
            "prune": {
                "sparsity": {"choices": [0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.93, 0.95, 0.97]},
                "scope": {"choices": ["global", "layer"]},
            }
        },
        {"share": {"clusters": {"choices": [3, 4, 6, 8, 12, 16, 32]}}},
    ],
    [{"share": {"clusters": {"choices": [3, 4, 6, 8, 12, 16, 32]}}}],
    [{"prune": {"sparsity": {"choices": [0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.93, 0.95, 0.97]}}}],
]
"""9 * 2 * 7 + 7 + 9 = 142 recipes."""

PREFIX = [
    [
        {"prune": {"sparsity": {"choices": [0.7, 0.8, 0.9, 0.95]}, "repair": True}},
        {last: settings},
    ]
    for last, settings in (
        ("share", {"clusters": {"choices": [8, 16, 32]}}),
        ("weight_only", {"bits": {"choices": [4, 6, 8]}, "method": "rtn"}),
    )
]
"""4 prunings with 6 quantizations each."""


def lenet() -> tuple[onnx.ModelProto, dict[str, measure.Dataset]]:
    """Return the example's network, trained, and its rows."""
    from mlflow_compress.techniques.training.export import export_torch

    path = HERE.parent / "examples" / "lenet_mnist" / "prepare.py"
    spec = importlib.util.spec_from_file_location("prepare", path)
    assert spec is not None and spec.loader is not None
    prepare: Any = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(prepare)
    arrays = prepare.digits()
    kept, folder = OUT / "search_lenet.onnx", OUT
    folder.mkdir(exist_ok=True)
    if not kept.exists():
        rows = arrays["calibration"]
        net = prepare.train(rows["image"], rows["labels"])
        onnx.save(export_torch(net, {"image": rows["image"][:8]}), kept)
    data = {
        role: measure.Dataset({"image": rows["image"]}, rows["labels"], role)
        for role, rows in arrays.items()
    }
    return onnx.load(kept), data


def make_evaluator(work_dir: Path, cache: StepCache | None = None) -> TrialEvaluator:
    model, data = lenet()
    normal = normalize(model)
    evaluation = measure.check_fits(data["evaluation"], normal)
    return TrialEvaluator(
        source=normal,
        uri="lenet",
        source_digest=hashlib.sha256(normal.SerializeToString(deterministic=True)).hexdigest(),
        source_bytes=measure.weight_bytes(model),
        evaluation=evaluation,
        outputs=look_at_source(model, normal, evaluation),
        calibration=measure.check_fits(data["calibration"].head(2000), normal),
        work_dir=work_dir,
        latency_rounds=0,
        cache=cache,
    )


class Table(Evaluator):
    """Looks measured variants up."""

    def __init__(self, variants: Sequence[Variant]) -> None:
        self.by_digest = {variant.recipe.digest: variant for variant in variants}

    def key(self, recipe: Recipe) -> str:
        """Return the recipe's digest."""
        return recipe.digest

    def evaluate(self, recipe: Recipe, key: str) -> tuple[Variant, str]:
        """Look a recipe up."""
        return replace(self.by_digest[recipe.digest], key=key), ""


def grid() -> list[Variant]:
    """Return every variant of the space, measured once."""
    path = OUT / "search_grid.json"
    digest = hashlib.sha256(json.dumps(SPACE).encode()).hexdigest()
    if path.exists():
        held = json.loads(path.read_text())
        if held["space"] == digest:
            return [from_dict(Variant, item) for item in held["variants"]]
    with tempfile.TemporaryDirectory() as folder:
        evaluator = make_evaluator(Path(folder), StepCache(Path(folder) / "steps", 10**9))
        trials = search("grid", evaluator, Space.parse(SPACE), 10**6)
    failed = [trial for trial in trials if trial.variant is None]
    assert not failed, failed[0].error
    variants = [
        replace(t.variant, report=replace(t.variant.report, layers=(), stages=()))
        for t in trials
        if t.variant is not None
    ]
    path.write_text(json.dumps({"space": digest, "variants": [to_dict(v) for v in variants]}))
    return variants


def search(
    strategy: str, evaluator: Any, space: Space, trials: int, seed: int = 0
) -> tuple[Trial, ...]:
    return run_search(
        space, get_strategy(strategy), evaluator, NullObserver(), INFO,
        SearchOptions(budget=Budget(trials), objectives=OBJECTIVES, seed=seed),
    )  # fmt: skip


def strategies(names: Sequence[str], seeds: int) -> dict[str, Any]:
    """Print how much of the grid's hypervolume each strategy has after how many trials."""
    variants = grid()
    space, whole = Space.parse(SPACE), volume(variants, OBJECTIVES)
    half = len(variants) // 2
    print(f"grid: {len(variants)} recipes, hypervolume {whole:.4f}; {seeds} seeds, {half} trials")
    print("mean share of it (least, most), after trials; trials to 95 %: mean (most)")
    marks = [10, 20, 30, 40, 50, 60, half]
    curves: dict[str, Any] = {}
    for name in names:
        began = time.process_time()
        shares = []
        for seed in range(seeds):
            trials = search(name, Table(variants), space, half, seed)
            made = [t.variant for t in trials if t.variant is not None]
            curve = [volume(made[: n + 1], OBJECTIVES) / whole for n in range(len(made))]
            shares.append(curve)
        seconds = (time.process_time() - began) / seeds / half
        cells = []
        for mark in marks:
            at = [curve[mark - 1] for curve in shares]
            cells.append(f"{mark}: {statistics.mean(at):.3f} ({min(at):.3f}, {max(at):.3f})")
        reach = [next((n + 1 for n, v in enumerate(c) if v >= 0.95), half + 1) for c in shares]
        print(f"{name:10s} {'  '.join(cells)}")
        print(f"{'':10s} 95 %: {statistics.mean(reach):.1f} ({max(reach)}), "
              f"{1000 * seconds:.0f} ms CPU per trial")  # fmt: skip
        curves[name] = {"shares": shares, "reach": reach, "seconds": seconds}
    return curves


def prefix() -> dict[str, Any]:
    """Print the time of 4 prunings x 6 quantizations with and without the cache, interleaved."""
    space = Space.parse(PREFIX)
    recipes = [space.recipe(point) for point in space.points()]
    with tempfile.TemporaryDirectory() as folder:
        cache = StepCache(Path(folder) / "steps", 10**9)
        evaluators = [make_evaluator(Path(folder)), make_evaluator(Path(folder), cache)]
        for evaluator in evaluators:
            evaluator.check_source()
        spent, wall, reused = [0.0, 0.0], [0.0, 0.0], 0
        for recipe in recipes:
            reports = []
            for index, evaluator in enumerate(evaluators):
                began, clock = time.process_time(), time.perf_counter()
                made = evaluator.evaluate(recipe, evaluator.key(recipe))
                spent[index] += time.process_time() - began
                wall[index] += time.perf_counter() - clock
                reports.append(made.variant.report)
            reused += made.reused_steps
            assert reports[0] == reports[1], f"{recipe.label} differs"
    ratio = spent[1] / spent[0]
    print(f"{len(recipes)} recipes: {spent[0]:.1f} s CPU without, {spent[1]:.1f} s with the cache")
    print(f"ratio {ratio:.2f} (wall {wall[1] / wall[0]:.2f}), {reused} of {2 * len(recipes)} steps "
          "reused, all reports equal")  # fmt: skip
    return {"without": spent[0], "with": spent[1], "ratio": ratio, "reused": reused}


def overhead(trials: int) -> dict[str, Any]:
    """Print the time per trial besides technique and measurement, MLflow on sqlite."""
    from mlflow_compress.mlflow_plugin import Tracker

    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    sparsity = {"prune": {"sparsity": {"low": 0.1, "high": 0.9}}}
    ends: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        evaluator = make_evaluator(Path(folder))
        first = Space.parse([[{"prune": {"sparsity": 0.9}}, {"share": {"clusters": 16}}]])
        recipe = first.recipe(next(iter(first.points())))
        made = evaluator.evaluate(recipe, evaluator.key(recipe))

        class Fixed:
            def key(self, recipe: Recipe) -> str:
                return evaluator.key(recipe)

            def evaluate(self, recipe: Recipe, key: str) -> tuple[Variant, str]:
                return replace(made.variant, key=key, recipe=recipe), made.path

        example = {k: v[:2] for k, v in evaluator.evaluation.inputs.items()}
        began = time.perf_counter()
        tracker = Tracker("overhead", f"sqlite:///{folder}/mlflow.db", input_example=example)
        run_search(
            Space.parse([[sparsity]]), get_strategy("tpe"), Fixed(), tracker,
            replace(INFO, datasets={"evaluation": evaluator.evaluation.ref}),
            SearchOptions(budget=Budget(trials), objectives=OBJECTIVES,
            on_trial=lambda trial: ends.append(time.perf_counter())),
        )  # fmt: skip
        whole = 1000 * (time.perf_counter() - began) / trials
        os.chdir(HERE)
    took = 1000 * np.diff(ends)
    early, late = statistics.median(took[5:25]), statistics.median(took[-20:])
    print(f"{trials} trials: {whole:.0f} ms per trial from the first call to the last run's end; "
          f"median {statistics.median(took):.0f} ms, trials 5 to 25 {early:.0f} ms, the last 20 "
          f"{late:.0f} ms")  # fmt: skip
    return {"whole": whole, "median": float(statistics.median(took)), "early": early, "late": late}


def workers(trials: int, rounds: int = 3) -> dict[str, Any]:
    """Print trials per minute of two processes beside one, in turn; logging is not part of it."""
    space = Space.parse(
        [
            [
                {"prune": {"sparsity": {"low": 0.8, "high": 0.95}, "repair": True}},
                {"share": {"clusters": {"choices": [8, 16, 32]}}},
            ]
        ]
    )
    pace: dict[int, list[float]] = {1: [], 2: []}
    with tempfile.TemporaryDirectory() as folder:
        evaluator = make_evaluator(Path(folder))
        evaluator.check_source()
        for number in range(rounds):
            for count in (1, 2) if number % 2 else (2, 1):
                executor = get_executor("process", Options(workers=count))
                executor.open()  # starting processes is not what is compared
                executor.submit(int).result()
                began = time.perf_counter()
                run_search(
                    space, get_strategy("random"), evaluator, NullObserver(), INFO,
                    SearchOptions(
                        OBJECTIVES, budget=Budget(trials), executor=executor, seed=number
                    ),
                )  # fmt: skip
                pace[count].append(60 * trials / (time.perf_counter() - began))
    one, two = (statistics.median(pace[count]) for count in (1, 2))
    print(f"{trials} trials, {rounds} rounds in turn: {one:.1f} a minute on one process, {two:.1f} "
          f"on two: {two / one:.2f} times as many")  # fmt: skip
    return {"one": pace[1], "two": pace[2], "ratio": two / one}


def plot(curves: dict[str, Any], path: Path) -> None:
    """Draw the mean share of the grid's hypervolume, and its range over seeds, after each trial."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    matplotlib.rcParams["svg.hashsalt"] = "mlflow-compress"  # the same bytes each time
    figure, axes = pyplot.subplots(figsize=(7, 4.2))
    styles = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)))
    for (name, curve), style in zip(curves.items(), styles, strict=False):
        shares = np.array(curve["shares"])
        trials = np.arange(1, shares.shape[1] + 1)
        (line,) = axes.plot(trials, shares.mean(axis=0), label=name, linestyle=style)
        axes.fill_between(
            trials, shares.min(axis=0), shares.max(axis=0), alpha=0.12, color=line.get_color()
        )
    axes.axhline(0.95, color="grey", linewidth=0.8)
    axes.set(xlabel="trials (the grid has 142)", ylabel="share of the grid's hypervolume",
             ylim=(0.5, 1.01), xlim=(1, None))  # fmt: skip
    axes.legend(loc="lower right")
    path.parent.mkdir(exist_ok=True)
    figure.savefig(path, metadata={"Date": None}, bbox_inches="tight")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["strategies", "prefix", "overhead", "workers"])
    parser.add_argument("--names", nargs="+", default=["random", "tpe", "nsga2", "evolution", "gp"])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--trials", type=int, default=200)
    parser.add_argument("--plot", type=Path, help="draw the strategies' curves into this .svg")
    args = parser.parse_args()
    OUT.mkdir(exist_ok=True)
    if args.what == "strategies":
        made = strategies(args.names, args.seeds)
        if args.plot is not None:
            plot(made, args.plot)
    elif args.what == "prefix":
        made = prefix()
    else:
        made = {"overhead": overhead, "workers": workers}[args.what](args.trials)
    (OUT / f"search_{args.what}.json").write_text(json.dumps(made, indent=1))


if __name__ == "__main__":
    main()
