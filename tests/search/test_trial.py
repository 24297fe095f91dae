"""A trial's latency: what is opened and timed, and on which cores."""

import hashlib
import os

import numpy as np
import pytest

from mlflow_compress import measure, packed
from mlflow_compress.records import Recipe
from mlflow_compress.search import TrialEvaluator
from mlflow_compress.techniques import normalize
from tests.tiny import CLASSES, tiny_model


@pytest.mark.skipif(
    not hasattr(os, "sched_getaffinity") or len(os.sched_getaffinity(0)) < 2,
    reason="needs two cores that can be chosen",
)
@pytest.mark.parametrize("fails", [False, True])
def test_source_and_variant_are_opened_and_timed_on_the_same_core(tmp_path, monkeypatch, fails):
    model = normalize(tiny_model())
    rows = measure.Dataset({"x": np.ones((8, 16), np.float32)})
    allowed = os.sched_getaffinity(0)
    seen = []

    def watched(what, real):
        def call(*arguments, **settings):
            seen.append((what, os.sched_getaffinity(0)))
            if fails and what == "time":
                raise MemoryError
            return real(*arguments, **settings)

        return call

    evaluator = TrialEvaluator(
        source=model,
        uri="models:/tiny/1",
        source_digest=hashlib.sha256(model.SerializeToString()).hexdigest(),
        source_bytes=measure.weight_bytes(model),
        evaluation=rows,
        outputs=CLASSES,
        work_dir=tmp_path,
        latency_rounds=2,
    )
    made = evaluator.make(Recipe(), "key")
    fresh = evaluator.at(tmp_path)  # no session is open yet
    monkeypatch.setattr(measure, "open_session", watched("source", measure.open_session))
    monkeypatch.setattr(packed, "load", watched("variant", packed.load))
    monkeypatch.setattr(measure.latency, "_time", watched("time", measure.latency._time))
    if fails:
        with pytest.raises(MemoryError):
            fresh.timed(made.variant, tmp_path / made.path)
    else:
        (latency,) = fresh.timed(made.variant, tmp_path / made.path).report.latency
        assert latency.threads == 1
    assert {what for what, _ in seen} == {"source", "variant", "time"}
    assert [cores for _, cores in seen] == [{min(allowed)}] * len(seen)
    assert os.sched_getaffinity(0) == allowed
