"""Trials read from runs that anybody may have written to."""

import json
from types import SimpleNamespace

import pytest

from mlflow_compress.mlflow_plugin.pages.points import _trial

METRICS = {
    "size_bytes": 100.0, "source_bytes": 200.0, "rate": 2.0, "entropy_bits": 1.0,
    "latency_ratio": 0.5, "latency_ratio_high": 0.6, "latency_p50_ms": 1.0, "latency_p95_ms": 2.0,
}  # fmt: skip
TAGS = {"compress.recipe_json": json.dumps({"steps": []}), "compress.key": "k"}


def trial(tags=(), metrics=()):
    data = SimpleNamespace(tags=TAGS | dict(tags), metrics=METRICS | dict(metrics))
    return _trial(SimpleNamespace(info=SimpleNamespace(run_id="r"), data=data))


def test_a_trial_is_told_by_its_tags_and_metrics():
    report = trial().variant.report
    assert (report.size_bytes, report.rate, report.latency[0].source_p50) == (100, 2.0, 2.0)


@pytest.mark.parametrize(("tags", "metrics"), [
    ({}, {"latency_ratio": 0.0}), ({}, {"size_bytes": float("inf")}),
    ({}, {"source_bytes": float("nan")}), ({"compress.recipe_json": "[" * 90_000}, {}),
    ({"compress.recipe_json": "7"}, {}),
])  # fmt: skip
def test_what_tells_no_trial_is_left_out(tags, metrics):
    assert trial(tags, metrics) is None
