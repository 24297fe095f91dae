"""The supernet: each subnet computes alone what it computes within, and training resumes."""

import random
from copy import deepcopy

import pytest
import torch

from mlflow_compress.errors import ConfigError
from mlflow_compress.nas import (
    ElasticNet,
    Images,
    Space,
    TrainingPlan,
    phases,
    progressive,
    recalibrate,
    train_supernet,
)
from tests.nas.conftest import SPACE as PLAIN
from tests.nas.made import bars_data
from tests.nas.test_blocks import unsettled

SPACE = Space.model_validate(PLAIN)
RECIPE = TrainingPlan(1, 1, 1, 2, batch=50)


def net(seed=0):
    torch.manual_seed(seed)
    return ElasticNet(SPACE, 1, 12, 4)


@pytest.mark.parametrize("seed", range(6))
def test_subnet_computes_alone_what_it_computes_within(seed):
    torch.manual_seed(seed)
    supernet, rows = unsettled(net()), torch.randn(3, 1, 12, 12)
    for matrix in (p for n, p in supernet.named_parameters() if "to_smaller" in n):
        torch.nn.init.normal_(matrix, std=0.2)
    subnet = SPACE.draw(random.Random(seed))
    with torch.no_grad():
        within, alone = supernet(rows, subnet), supernet.take(subnet)(rows)
    torch.testing.assert_close(alone, within)


def test_smaller_kernels_begin_as_the_centre_of_larger_ones():
    block = net().stages[0][0]
    large, small = block.spatial_weight(5, 4), block.spatial_weight(3, 4)
    torch.testing.assert_close(small, large[..., 1:-1, 1:-1])


def test_sorting_puts_important_channels_first_and_changes_nothing():
    supernet, rows = unsettled(net()), torch.randn(3, 1, 12, 12)
    with torch.no_grad():
        before = supernet(rows)
        supernet.sort_channels()
        after = supernet(rows)
    torch.testing.assert_close(after, before, atol=1e-5, rtol=1e-4)
    weights = supernet.stages[1][0].project.conv.weight.abs().sum((0, 2, 3))
    assert (weights[:-1] >= weights[1:]).all()


def test_phases_come_in_the_published_order():
    found = phases(SPACE, TrainingPlan(3, 1, 1, 2))
    assert [phase.name for phase in found] == ["full", "kernel", "depth 2", "width 2"]
    assert [phase.subnets for phase in found] == [1, 1, 2, 4]
    three = Space.model_validate(
        PLAIN | {"stages": [{"channels": 8, "depth": [1, 2, 3], "width": [1, 2, 3]}]}
    )
    found = phases(three, TrainingPlan(3, 1, 1, 5))
    assert [phase.name for phase in found] == ["full", "depth 2", "depth 3", "width 2", "width 3"]
    assert [phase.schedule.epochs for phase in found[-2:]] == [1, 4]


def test_last_phase_always_trains_the_smallest_and_the_largest(monkeypatch):
    seen = []
    forward = ElasticNet.forward
    monkeypatch.setattr(
        ElasticNet,
        "forward",
        lambda self, x, subnet=None: seen.append(subnet) or forward(self, x, subnet),
    )
    train_supernet(net(), Images.split(bars_data(120)), RECIPE)
    steps = [seen[-4 * index - 4 : len(seen) - 4 * index] for index in range(3)]
    for step in steps:
        assert step[:2] == [SPACE.smallest(), SPACE.subnet()]


def test_the_teacher_has_statistics_of_its_own(monkeypatch):
    seen = []
    logits = progressive.logits
    monkeypatch.setattr(
        progressive, "logits", lambda n, rows: seen.append(deepcopy(n)) or logits(n, rows)
    )
    images = Images.split(bars_data(120))
    train_supernet(net(), images, RECIPE)
    (teacher,) = seen
    settled = deepcopy(teacher)
    recalibrate(settled, images.train)
    for name, values in settled.state_dict().items():
        torch.testing.assert_close(teacher.state_dict()[name], values, msg=name)


class Stop(Exception):  # noqa: N818
    pass


def test_training_that_is_broken_off_ends_with_the_same_weights(tmp_path):
    images, file = Images.split(bars_data(240)), tmp_path / "kept.pt"
    whole, broken = net(), net()
    history = train_supernet(whole, images, RECIPE)

    def stop(progress):
        if progress.epoch == 3:
            raise Stop

    with pytest.raises(Stop):
        train_supernet(broken, images, RECIPE, watch=stop, checkpoint=file)
    told = []
    broken = net(seed=5)
    resumed = train_supernet(broken, images, RECIPE, watch=told.append, checkpoint=file)
    assert [one.epoch for one in told] == [1, 2, 3, 4, 5]
    assert [one.loss for one in resumed] == [one.loss for one in history]
    for name, values in whole.state_dict().items():
        torch.testing.assert_close(broken.state_dict()[name], values, rtol=0, atol=0, msg=name)


def test_damaged_checkpoint_is_as_good_as_none(tmp_path, caplog):
    file = tmp_path / "kept.pt"
    file.write_bytes(b"no checkpoint")
    images = Images.split(bars_data(120))
    short = TrainingPlan(1, 1, 1, 1, batch=50)
    assert len(train_supernet(net(), images, short, checkpoint=file)) == 4
    assert "damaged" in caplog.text


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"full": 0}, "train.full must be above 0 epochs, got 0"),
        ({"batch": 1}, "train.batch must be at least 2, got 1"),
        ({"learning_rate": 0}, "learning_rate must be above 0"),
    ],
)
def test_impossible_recipes_are_refused(settings, told):
    with pytest.raises(ConfigError, match=told):
        TrainingPlan(**settings)
