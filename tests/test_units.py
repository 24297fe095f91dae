"""How numbers of a metric are shown, and that records of before are written as they were."""

import json

import pytest

from mlflow_compress.records import (
    Accuracy,
    DatasetRef,
    Interval,
    Report,
    format_change,
    format_drop,
    format_score,
    from_dict,
    to_dict,
)
from mlflow_compress.report import drop_head

ROWS = DatasetRef("rows", "0" * 64, 100)


def accuracy(unit, *, drop=0.01, higher=True):
    return Accuracy("m", 0.5, 0.51, drop, Interval(-drop, 2 * drop), ROWS, higher, unit, "y")


@pytest.mark.parametrize(
    ("unit", "value", "change", "drop"),
    [
        ("share", "94.60 %", "94.60 points", "1.00 [-1.00, 2.00]"),
        ("points", "0.95 points", "0.95 points", "0.01 [-0.01, 0.02]"),
        ("dB", "0.946 dB", "0.946 dB", "0.01 [-0.01, 0.02]"),
        ("", "0.946", "0.946", "0.01 [-0.01, 0.02]"),
    ],
)
def test_every_unit_is_shown_as_what_it_is(unit, value, change, drop):
    assert format_score(0.946, unit) == value
    assert format_change(0.946, unit) == change
    assert format_drop(accuracy(unit)) == drop


def test_the_head_of_the_drops_names_their_unit():
    def reports(*units):
        return [Report(1, 2, 2.0, 1.0, "", accuracy=accuracy(unit)) for unit in units]

    assert drop_head([]) == drop_head(reports("share")) == "drop, points [95 %]"
    assert drop_head(reports("dB", "dB")) == "drop, dB [95 %]"
    assert drop_head(reports("")) == drop_head(reports("dB", "share")) == "drop [95 %]"


def test_no_drop_is_shown_as_minus_nothing():
    assert format_drop(accuracy("share", drop=-0.0)) == "0.00 [0.00, 0.00]"


def test_a_record_of_before_is_written_as_it_was():
    old = to_dict(accuracy("share"))
    del old["output"]
    assert "unit" not in old
    assert json.dumps(to_dict(from_dict(Accuracy, old))) == json.dumps(old)


def test_a_unit_comes_back():
    one = accuracy("dB")
    assert from_dict(Accuracy, json.loads(json.dumps(to_dict(one)))) == one


def test_only_shares_have_an_end():
    assert accuracy("share").range == (0, 1)
    assert accuracy("share", higher=False).range == (0, float("inf"))
    assert accuracy("dB").range == (float("-inf"), float("inf"))
