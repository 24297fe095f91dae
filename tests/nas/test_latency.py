"""The latency table: measured on a device, added up, calibrated."""

import sys

import numpy as np
import pytest

from mlflow_compress.errors import CompressError
from mlflow_compress.nas import (
    BlockSpec,
    LatencyTable,
    Net,
    NetSpec,
    calibrate,
    measure_nets,
    measure_table,
    ranks_agree,
)
from mlflow_compress.targets import load_target
from mlflow_compress.targets.devices import CommandDevice

STEM = BlockSpec("regular", 1, 4, kernel=3, stride=2)
LARGE = BlockSpec("regular", 4, 256, kernel=7)
SMALL = BlockSpec("regular", 4, 4, kernel=1)


def net(*blocks):
    return NetSpec(1, 16, 16, (STEM, *blocks), 3)


@pytest.mark.parametrize(
    "device", [None, CommandDevice("cmd:box", ("env", "BOX=1"), python=sys.executable)]
)
def test_table_tells_a_large_block_from_a_small_one(device):
    target = load_target({"name": "here", "measured_on": "local", "objective": "accuracy"})
    specs = [net(LARGE), net(SMALL)]
    table = measure_table(
        target, [e for s in specs for e in (*s.sized(), *s.sized())], rounds=3, device=device
    )
    assert set(table.blocks) == {(STEM, 16), (LARGE, 8), (SMALL, 8)}
    assert table.block_ms(LARGE, 8) > 3 * table.block_ms(SMALL, 8)
    assert table.predict(specs[0]) > table.predict(specs[1]) > 0
    found = measure_nets(target, [Net(spec).eval() for spec in specs], rounds=3, device=device)
    assert found.fastest[0] > found.fastest[1] > 0
    assert (found.typical >= found.fastest).all()


def test_unknown_block_is_told():
    table = LatencyTable("pi", 1, {})
    with pytest.raises(CompressError, match=r"table of pi has no BlockSpec.*at 16"):
        table.predict(net())


def test_calibration_finds_what_whole_networks_cost():
    rng = np.random.default_rng(0)
    kinds = [BlockSpec("separable", 4, 4, kernel=k) for k in (3, 5, 7)]
    table = LatencyTable(
        "pi", 1, {(STEM, 16): 0.1, **{(b, 8): 0.1 + i for i, b in enumerate(kinds)}}
    )
    specs = [net(*rng.choice(kinds, rng.integers(1, 6))) for _ in range(20)]
    truth = [0.5 + 1.3 * table.sum_ms(spec) + 0.02 * len(spec.blocks) for spec in specs]
    fitted = calibrate(table, specs, truth)
    assert (fitted.start, fitted.scale, fitted.each) == pytest.approx((0.5, 1.3, 0.02), rel=1e-3)
    assert [fitted.predict(spec) for spec in specs] == pytest.approx(truth)
    assert LatencyTable.from_dict(fitted.to_dict()) == fitted


def test_ranks():
    assert ranks_agree([1, 2, 3], [10, 11, 90]) == pytest.approx(1)
    assert ranks_agree([1, 2, 3], [3, 2, 1]) == pytest.approx(-1)
