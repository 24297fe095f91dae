"""What is not offered does not do here what it is for: the reasons, on today's versions."""

import math
from pathlib import Path

import pytest
import torch
from layers import table
from mlflow_compress_neural_compressor.library import library, quiet
from mlflow_compress_neural_compressor.refused import REFUSED
from torch import nn

README = Path(__file__).parents[1] / "README.md"


def quantized(config, rows):
    """Return how far the outputs of a small net move, relative to their variance."""
    nc = library()
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 32), nn.ReLU(),
                        nn.Linear(32, 10)).eval()  # fmt: skip
    with quiet(), torch.no_grad():
        before = net(rows)
        made = nc.prepare(net, config(nc), example_inputs=(rows[:4],))
        made(rows)
        made = nc.convert(made)
        return made, float((made(rows) - before).pow(2).mean() / before.var())


pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.fixture
def rows():
    torch.manual_seed(1)
    return torch.randn(64, 64)


def test_teq_gives_four_bits_for_eight(rows):
    four, eight = (
        quantized(lambda nc, b=b: nc.TEQConfig(bits=b, group_size=-1), rows)[1] for b in (4, 8)
    )
    assert math.isclose(four, eight, rel_tol=1e-6)


def test_hqq_has_fractions_for_zero_points(rows):
    made, _ = quantized(lambda nc: nc.HQQConfig(bits=4, group_size=64), rows)
    zeros = [layer.q_weight.zero for layer in made.modules() if hasattr(layer, "q_weight")]
    assert zeros and all(bool((zero != zero.round()).any()) for zero in zeros)


@pytest.mark.parametrize(
    ("config", "failure"),
    [
        (lambda nc: nc.AWQConfig(), UnboundLocalError),
        (lambda nc: nc.SmoothQuantConfig(), ModuleNotFoundError),
        (lambda nc: nc.AutoRoundConfig(), NameError),
    ],
)
def test_these_do_not_run(config, failure, rows):
    with pytest.raises(failure):
        quantized(config, rows)


def test_the_readme_tells_each_with_its_reason():
    text = README.read_text()
    for name, reason in REFUSED.items():
        assert f"| `{name}` | {reason} |" in text


def test_the_readme_s_table_of_layers_is_what_is_found():
    assert table() in README.read_text()
