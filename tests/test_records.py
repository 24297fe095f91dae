"""Records survive JSON and say what does not fit."""

import json

import pytest

from mlflow_compress.records import (
    Accuracy,
    DatasetRef,
    Decision,
    Gate,
    Interval,
    Latency,
    LayerReport,
    Recipe,
    Report,
    Step,
    Trial,
    Variant,
    from_dict,
    to_dict,
)

ROWS = DatasetRef("mnist-test", "ab" * 32, 1000)
VARIANT = Variant(
    "key",
    Recipe((Step("prune", {"sparsity": 0.9}), Step("share", {"bits": 4})), "portable"),
    Report(
        size_bytes=100,
        source_bytes=4000,
        rate=40.0,
        entropy=1.5,
        sha256="cd" * 32,
        layers=(LayerReport("w", (3, 4), "float32", "codebook", 48, 12, 0.5, 4, 1.2, 8.0),),
        accuracy=Accuracy("accuracy", 0.94, 0.95, 0.01, Interval(0.0, 0.02), ROWS),
        latency=(Latency("local", 1, 1, 0.1, 0.2, 0.1, 1.0, Interval(0.9, 1.1)),),
    ),
    quarantined=frozenset({"b", "a"}),
)


@pytest.mark.parametrize(
    "record",
    [
        VARIANT,
        Trial(1, "key", VARIANT.recipe, "complete", 1.5, VARIANT),
        Decision("t", "kept", 3, 3, "why", {3: (Gate("size", True, 10.0, 20.0),)}),
    ],
    ids=lambda record: type(record).__name__,
)
def test_a_record_survives_json(record):
    text = json.dumps(to_dict(record))
    assert from_dict(type(record), json.loads(text)) == record


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rate": "big"}, "Report.rate does not fit: 'big'"),
        ({"size_bytes": True}, "Report.size_bytes does not fit: 'True'"),
        ({"size_bytes": 10**400}, "Report.size_bytes does not fit: a number of 1329 bits"),
        ({"rate": -(10**400)}, "Report.rate does not fit: a number of 1329 bits"),
        ({"sise": 1}, "Report has an unknown key 'sise'"),
        ({"accuracy": 3}, "Report.accuracy must be a mapping, got '3'"),
    ],
)
def test_what_does_not_fit_is_named(change, message):
    data = {**to_dict(VARIANT.report), **change}
    with pytest.raises(ValueError, match=r".") as caught:
        from_dict(Report, data)
    assert str(caught.value) == message


def test_a_missing_key_is_named():
    data = to_dict(VARIANT.report)
    del data["sha256"]
    with pytest.raises(ValueError, match=r"Report\.sha256 is missing"):
        from_dict(Report, data)
