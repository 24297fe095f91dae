"""What every training here shares: the rows that statistics come from, and short data."""

import pytest
import torch

from mlflow_compress.errors import DataError
from mlflow_compress.nas import BlockSpec, Images, Net, NetSpec, Schedule, fit_net, recalibrate


def copies():
    """A network whose one convolution hands its input to batch normalisation."""
    net = Net(NetSpec(1, 8, 8, (BlockSpec("regular", 1, 1, 1, 1),), 3))
    norm = next(m for m in net.modules() if isinstance(m, torch.nn.BatchNorm2d))
    conv = next(m for m in net.modules() if isinstance(m, torch.nn.Conv2d))
    torch.nn.init.ones_(conv.weight)
    return net, norm


def test_every_row_counts_the_same_when_statistics_are_taken():
    net, norm = copies()
    rows = torch.cat([torch.zeros(250, 1, 8, 8), torch.full((1, 1, 8, 8), 10.0)])
    recalibrate(net, rows)
    assert float(norm.running_mean) == pytest.approx(float(rows.mean()), rel=0.02)


def test_rows_sorted_by_class_give_the_statistics_of_all_classes():
    net, norm = copies()
    rows = torch.cat([torch.zeros(4000, 1, 8, 8), torch.full((1000, 1, 8, 8), 10.0)])
    recalibrate(net, rows)
    assert float(norm.running_mean) == pytest.approx(2, abs=0.3)
    assert float(norm.running_var) == pytest.approx(16, abs=2)


def test_fewer_rows_than_a_batch_are_one_batch():
    images = Images(*[torch.rand(9, 1, 8, 8), torch.zeros(9).long()] * 2)
    (epoch,) = fit_net(copies()[0], images, Schedule(1, batch=128))
    assert epoch.loss > 0


def test_one_row_has_no_statistics():
    with pytest.raises(DataError, match=r"at least two rows .* got 1"):
        recalibrate(copies()[0], torch.zeros(1, 1, 8, 8))
