"""The space of subnets: counted, drawn, bounded, told as text."""

import random
from itertools import product

import pytest

from mlflow_compress.errors import ConfigError
from mlflow_compress.nas import Bounds, Opened, Space, Stage, Subnet

SPACE = Space(
    resolutions=(8, 12),
    stem=4,
    stages=(
        Stage(channels=4, depth=(1, 2), kernel=(3, 5), width=(1, 2)),
        Stage(channels=6, stride=2, depth=(1, 3), kernel=(3,), width=(2, 3, 4)),
    ),
)


def test_size_counts_every_subnet_once():
    def stage(depths, kernels, widths):
        return sum(len(list(product(product(kernels, widths), repeat=d))) for d in depths)

    assert SPACE.size == 2 * stage((1, 2), (3, 5), (1, 2)) * stage((1, 3), (3,), (2, 3, 4))
    drawn = {SPACE.draw(random.Random(seed)) for seed in range(400)}
    assert len(drawn) > 150
    for subnet in drawn:
        SPACE.check(subnet)


def test_text_comes_back_as_the_same_subnet():
    subnet = Subnet.parse("12: 3x2 5x1 | 3x4")
    assert subnet == Subnet(12, (((3, 2), (5, 1)), ((3, 4),)))
    assert str(subnet) == "12: 3x2 5x1 | 3x4"


@pytest.mark.parametrize("text", ["", "12", "12: 3x2 | ", "x: 3x2", "12: 3-2 | 3x4"])
def test_other_text_is_refused(text):
    with pytest.raises(ConfigError, match="must be of the form"):
        Subnet.parse(text)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("10: 3x1 | 3x2", "resolution must be one of 8, 12, got 10"),
        ("12: 7x1 | 3x2", "kernel must be one of 3, 5, got 7"),
        ("12: 3x1 | 3x2 3x2", "depth must be one of 1, 3, got 2"),
        ("12: 3x3 | 3x2", "width must be one of 1, 2, got 3"),
        ("12: 3x1", "has 1 stages, the space 2"),
    ],
)
def test_subnets_of_other_spaces_are_refused(text, told):
    with pytest.raises(ConfigError, match=told):
        SPACE.check(Subnet.parse(text))


def test_largest_within_bounds():
    assert str(SPACE.subnet()) == "12: 5x2 5x2 | 3x4 3x4 3x4"
    assert str(SPACE.smallest()) == "8: 3x1 | 3x2"
    assert str(SPACE.subnet(Bounds(10, 4, 2, 3))) == "8: 3x2 3x2 | 3x3"
    with pytest.raises(ConfigError, match=r"shrink.width: the supernet has 2, 3, 4, got 1"):
        SPACE.subnet(Bounds(width=1))


def test_only_what_is_opened_is_drawn():
    opened = Opened(kernel=1, depth=1, width=2)
    drawn = {str(SPACE.draw(random.Random(seed), opened)).split(": ")[1] for seed in range(60)}
    assert all(text.count("5x") == 2 and text.count("3x") == 3 for text in drawn)
    assert not any("3x2" in text for text in drawn)
    assert str(SPACE.smallest(opened)) == "8: 5x1 5x1 | 3x3 3x3 3x3"


def test_children_stay_in_the_space():
    dice = random.Random(0)
    one, other = SPACE.subnet(), SPACE.smallest()
    for _ in range(200):
        child = SPACE.mutate(SPACE.cross(one, other, dice), dice, 0.3)
        SPACE.check(child)
        one, other = child, one
    assert SPACE.mutate(one, dice, 0.0) == one


def test_every_block_of_every_subnet_is_listed():
    blocks = set(SPACE.all_blocks(1, 12, 3))
    for seed in range(100):
        spec = SPACE.spec(SPACE.draw(random.Random(seed)), 1, 12, 3)
        assert set(spec.sized()) <= blocks
    # stem and head, then 2 kernels x 2 widths in two shapes, and 3 widths in two shapes, twice
    assert len(blocks) == 2 * (2 + 4 + 6)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"resolutions": [12, 8]}, "ascending order"),
        ({"stages": []}, "at least 1 item"),
        ({"stages": [{"channels": 4, "kernel": [4]}]}, "must be odd"),
        ({"stages": [{"channels": 4, "convolution": "dense"}]}, "separable"),
    ],
)
def test_impossible_spaces_are_refused(changes, told):
    plain = SPACE.model_dump(mode="json")
    with pytest.raises(ValueError, match=told):
        Space.model_validate(plain | changes)
