"""The trials behind a registered model, read from their runs' metrics in a few calls.

Reading each trial's ``report.json`` would be a call per trial; what the front shows of it is in
the metrics.
"""

from collections.abc import Mapping
from typing import Any

from mlflow import MlflowClient

from mlflow_compress.base.json_text import parse_json
from mlflow_compress.records import (
    Accuracy,
    DatasetRef,
    Fidelity,
    Interval,
    Latency,
    Recipe,
    Report,
    Trial,
    Variant,
    from_dict,
)
from mlflow_compress.tracking.names import KEY, KIND, RECIPE_JSON, SOURCE_DIGEST, UNIT
from mlflow_compress.tracking.pages import up_to

__all__ = ["trials_behind"]

_PAGE = 1000
_MOST = 3000
_UNNAMED = DatasetRef("", "", 0)


def trials_behind(
    client: MlflowClient, name: str, experiment_id: str
) -> tuple[list[Trial], dict[str, str]]:
    """Return the finished trials of the newest source that was compressed to a registered model.

    Args:
        client: where they are.
        name: the registered model, which its searches are named after.
        experiment_id: the experiment of its variants' runs.

    Returns:
        The trials, and the run of each by its key.
    """
    searches = _runs(client, experiment_id, f"tags.`{KIND}` = 'search'", _PAGE)
    named = [run for run in searches if run.info.run_name == name]
    digests = [run.data.tags.get(SOURCE_DIGEST) for run in named]
    parents = {
        run.info.run_id for run, digest in zip(named, digests, strict=True) if digest == digests[0]
    }
    query = f"tags.`{KIND}` = 'trial' AND attributes.status = 'FINISHED'"
    trials: dict[str, Trial] = {}
    links: dict[str, str] = {}
    for run in _runs(client, experiment_id, query, _MOST):
        if run.data.tags.get("mlflow.parentRunId") in parents:
            trial = _trial(run)
            if trial is not None and trial.key not in trials:
                trials[trial.key], links[trial.key] = trial, run.info.run_id
    return list(trials.values()), links


def _runs(client: MlflowClient, experiment_id: str, query: str, most: int) -> list[Any]:
    return up_to(
        most,
        lambda token: client.search_runs(
            [experiment_id],
            query,
            max_results=_PAGE,
            order_by=["attributes.start_time DESC"],
            page_token=token,
        ),
    )


def _trial(run: Any) -> Trial | None:
    """Rebuild what a trial's tags and metrics tell; None when they do not tell a variant."""
    tags, metrics = run.data.tags, run.data.metrics
    try:
        recipe = from_dict(Recipe, parse_json(tags[RECIPE_JSON]))
        report = _report(metrics, tags.get(UNIT, "share"))
        key = tags[KEY]
    except (KeyError, ValueError, ArithmeticError, RecursionError):
        # Anybody may write to a run: a ratio of nothing, an infinite size, brackets without end.
        return None
    variant = Variant(key, recipe, report, run_id=run.info.run_id)
    return Trial(0, key, recipe, "complete", variant=variant)


def _report(metrics: Mapping[str, float], unit: str) -> Report:
    accuracy = fidelity = None
    latency: tuple[Latency, ...] = ()
    if "accuracy" in metrics:
        drop = metrics["accuracy_drop"]
        low, high = metrics.get("accuracy_drop_low"), metrics.get("accuracy_drop_high")
        interval = Interval(drop if low is None else low, drop if high is None else high)
        accuracy = Accuracy(
            "accuracy",
            metrics["accuracy"],
            metrics["accuracy_source"],
            drop,
            interval,
            _UNNAMED,
            unit=unit,
        )
    if "agreement" in metrics or "fidelity" in metrics:
        agreement, kl, score = (metrics.get(n) for n in ("agreement", "kl_nats", "fidelity"))
        fidelity = Fidelity(agreement, kl, _UNNAMED, score=score)
    if "latency_ratio" in metrics:
        p50, ratio = metrics["latency_p50_ms"], metrics["latency_ratio"]
        high = metrics["latency_ratio_high"]
        latency = (
            Latency(
                "", 1, 1, p50, metrics["latency_p95_ms"], p50 / ratio, ratio, Interval(ratio, high)
            ),
        )
    return Report(
        size_bytes=int(metrics["size_bytes"]),
        source_bytes=int(metrics["source_bytes"]),
        rate=metrics["rate"],
        entropy=metrics["entropy_bits"],
        sha256="",
        accuracy=accuracy,
        fidelity=fidelity,
        latency=latency,
    )
