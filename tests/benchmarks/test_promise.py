"""The promise's measures and its table; the runs themselves take an hour."""

import sys
from pathlib import Path

import numpy as np
import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def promise():
    sys.path.insert(0, str(BENCHMARKS))
    try:
        import promise

        yield promise
    finally:
        sys.path.remove(str(BENCHMARKS))


def test_a_promise_is_kept_up_to_its_limit_and_never_by_nan(promise):
    assert promise.keeps("agreement", 0.99) and not promise.keeps("agreement", 0.9899)
    assert promise.keeps("drop", 0.005) and not promise.keeps("drop", 0.0051)
    assert not any(promise.keeps(gate, float("nan")) for gate in promise.LIMITS)


def test_each_measure_sees_the_damage_that_it_is_for(promise):
    before = np.random.default_rng(0).normal(size=(500, 4))
    shuffled = before[::-1]
    for gate in ("agreement", "values", "embedding"):
        assert promise.keeps(gate, promise.MEASURES[gate](before, before, None))
        assert not promise.keeps(gate, promise.MEASURES[gate](before, shuffled, None))
    labels = before.argmax(axis=1)
    assert promise.drop(before, shuffled, labels) > 0.5
    assert promise.agreement(before[:, :1], before[:, :1] + 1) < 0.9


def test_every_model_has_splits_of_each_size(promise):
    cases = list(promise.all_cases(list(promise.PLANS), list(promise.ROWS), promise.SPLITS))
    assert len(cases) == len(set(cases)) >= 5 * 3 * 20
    kinds = {promise.PLANS[case.model].kind for case in cases}
    assert kinds == {"classes", "positions", "values", "embedding"}


def test_the_table_counts_what_was_kept(promise):
    def result(split, kept, rate):
        file = {"value": 0.99, "kept": kept, "rate": rate}
        row = {"model": "prices", "gate": "values", "rows": 64, "split": split, "seconds": 1.0}
        return {**row, "compress": file, **({} if split else {"old": {**file, "kept": False}})}

    refused = {**result(3, True, 1.0), "refused": "one class"}
    del refused["compress"]
    text = promise.table(
        [result(0, True, 4.0), result(1, False, 6.0), result(2, True, 5.0), refused]
    )
    (row,) = [line for line in text.splitlines() if line.startswith("prices")]
    assert " ".join(row.split()) == "prices values 64 2 of 3, 1 refused 5.00 - - 0 of 1 4.00"
    assert "kept with 64 rows: compress 66.7 %, old 0.0 %" in text
