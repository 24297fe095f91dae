"""Records, targets and decisions whose digests and texts are pinned."""

import math

from mlflow_compress.records import (
    Accuracy,
    DatasetRef,
    Decision,
    Fidelity,
    Gate,
    Interval,
    Latency,
    Memory,
    Needs,
    OperatorTime,
    Recipe,
    Report,
    StageReport,
    Step,
    Variant,
)
from mlflow_compress.targets import AccuracyLimits, Execution, Limits, Reward, Target

ROWS = DatasetRef("digits", "ab" * 32, 1000)

RECIPES = {
    "lossless": Recipe(),
    "portable": Recipe((), "portable"),
    "prune and share": Recipe(
        (Step("prune", {"sparsity": 0.9, "repair": True}), Step("share", {"clusters": 16}))
    ),
    "per layer": Recipe(
        (
            Step("prune", {"sparsity": {"layers": {"fc1": 0.9, "fc*": 0.5}, "default": 0.0}}),
            Step("entropy_share", {"bits": 1.25, "rows": 2048, "mode": None}),
        ),
        "portable",
    ),
}

VARIANT = Variant(
    key="k" * 64,
    recipe=RECIPES["prune and share"],
    report=Report(
        size_bytes=20_000,
        source_bytes=1_000_000,
        rate=50.0,
        entropy=1.5,
        sha256="cd" * 32,
        stages=(StageReport("source", 1_000_000, 1.0, 0.0, 20.5),),
        accuracy=Accuracy("accuracy", 0.945, 0.95, 0.005, Interval(-0.001, 0.011), ROWS),
        fidelity=Fidelity(0.987, 0.0123, ROWS),
        latency=(
            Latency("local", 1, 1, 0.9, 1.8, 1.0, 0.9, Interval(0.8, 1.0), 0.02),
            Latency("ssh://pi@board", 4, 1, 5.0, 6.0, 4.0, 1.25, Interval(1.2, 1.3)),
        ),
        memory_bytes=60_000_000,
        memory=(Memory("ssh://pi@board", 4, 50_000_000),),
        needs=Needs(17, {"MatMul": "fc1"}, {"float": "fc1"}),
        slower=(OperatorTime("MatMul", 0.5, 0.25),),
    ),
    source="models:/lenet/3",
    model_uri="models:/m-0123456789abcdef",
    run_id="0123456789abcdef",
    version=7,
)

ERROR = Accuracy("cer", 0.031, 0.03, 0.001, Interval(0.0, 0.002), ROWS, higher_is_better=False)
"""A metric of which less is better."""

TARGETS = {
    "plain": Target("pi"),
    "raspberry-pi": Target(
        "pi",
        Limits(60_000, 16.0, 33.0, 256_000_000),
        AccuracyLimits(max_drop=0.005, confidence=0.95),
    ),
    "without labels": Target("pi", accuracy=AccuracyLimits(min_agreement=0.99, max_kl=0.01)),
    "reward, elsewhere": Target(
        "kiosk-17",
        Limits(latency_p50_ms=5.0),
        AccuracyLimits(min=0.9, max_drop=0.01),
        objective="reward",
        reward=Reward(5.0),
        execution=Execution(
            threads=4,
            profiles=("portable",),
            opset=17,
            dtypes=("float",),
            without_operators=("Loop",),
            cores=4,
            memory_bytes=10**9,
            runtime_version=">=1.17",
        ),
        measured_on="ssh://pi@board",
        min_improvement=0.02,
        description="the one at the door",
    ),
}

DECISIONS = {
    "promoted": Decision(
        "pi",
        "promoted",
        7,
        6,
        "version 7 is the best of 1 feasible: size 20.0 kB",
        {
            7: (Gate("profile", True, 1.0, 1.0), Gate("size", True, 20_000.0, 60_000.0)),
            6: (
                Gate("accuracy_drop", False, 0.011, 0.005, "1.1 points is more than 0.5 points"),
                Gate("memory", False, None, 256e6, "memory was not measured"),
            ),
        },
    ),
    "none feasible": Decision(
        "pi",
        "none feasible",
        None,
        None,
        "nothing passes",
        {7: (Gate("latency_p50", False, math.inf, 16.0, "latency_p50 is inf"),)},
        best_gap=7,
    ),
    "nothing there": Decision("pi", "none feasible", None, None, "there are no variants"),
}
