"""Blocks and networks: what their specs say, and the same numbers in PyTorch and in ONNX."""

import numpy as np
import onnx
import pytest
import torch

from mlflow_compress.errors import ConfigError
from mlflow_compress.nas import Block, BlockSpec, Net, NetSpec, block_onnx, net_onnx
from mlflow_compress.techniques import normalize
from mlflow_compress.techniques.graph.running import session
from mlflow_compress.techniques.training.interpreter import Interpreter

BLOCKS = [
    BlockSpec("inverted", 8, 8, kernel=5, hidden=16, squeeze=True),
    BlockSpec("inverted", 8, 12, kernel=3, stride=2, hidden=16),
    BlockSpec("fused", 8, 8, kernel=3, hidden=16, squeeze=True),
    BlockSpec("separable", 8, 8, kernel=7),
    BlockSpec("separable", 8, 12, stride=2, squeeze=True),
    BlockSpec("regular", 8, 6, kernel=5, stride=2),
    BlockSpec("skip", 8, 8),
]


def unsettled(module):
    """Give batch normalisation statistics that folding has to get right."""
    for part in module.modules():
        if isinstance(part, torch.nn.BatchNorm2d):
            part.running_mean.normal_()
            part.running_var.uniform_(0.5, 2)
            torch.nn.init.uniform_(part.weight, 0.5, 2)
            torch.nn.init.normal_(part.bias)
    return module.eval()


@pytest.mark.parametrize("spec", BLOCKS, ids=lambda spec: f"{spec.kind}-{spec.kernel}")
@pytest.mark.parametrize("size", [6, 7])
def test_block_has_the_shape_of_its_spec_in_torch_and_onnx(spec, size):
    made = Block(spec).eval()(torch.zeros(2, 8, size, size))
    after = spec.size_after(size)
    assert made.shape == (2, spec.outputs, after, after)
    model = block_onnx(spec, size)
    onnx.checker.check_model(model, full_check=True)
    (out,) = session(model).run(None, {"input": np.zeros((1, 8, size, size), np.float32)})
    assert out.shape == (1, spec.outputs, after, after)


@pytest.mark.parametrize("resolution", [12, 8])
def test_network_gives_the_same_logits_in_onnx(resolution):
    torch.manual_seed(0)
    blocks = (BlockSpec("regular", 1, 8, kernel=3, stride=2), BLOCKS[0], BLOCKS[2], BLOCKS[3],
              BLOCKS[6], BLOCKS[1])  # fmt: skip
    net = unsettled(Net(NetSpec(1, 12, resolution, blocks, 4)))
    rows = torch.randn(3, 1, 12, 12)
    with torch.no_grad():
        wanted = net(rows).numpy()
    model = net_onnx(net, "image")
    floats = [t for t in model.graph.initializer if t.data_type == onnx.TensorProto.FLOAT]
    assert sum(np.prod(tensor.dims) for tensor in floats) == net.spec.weights
    (made,) = session(model).run(None, {"image": rows.numpy()})
    np.testing.assert_allclose(made, wanted, atol=1e-5)
    # what trains ONNX models takes it as well
    with torch.no_grad():
        (trained,) = Interpreter(normalize(model)).eval()(rows)
    np.testing.assert_allclose(trained.numpy(), wanted, atol=1e-5)


def test_multiply_adds_are_counted_by_hand():
    # 3x3x1x8 on 6x6, then 8 -> 16 on 6x6, 5x5 on 16 channels, 16 -> 8, squeeze to 4 and back
    stem = BlockSpec("regular", 1, 8, kernel=3, stride=2)
    spec = NetSpec(1, 12, 12, (stem, BLOCKS[0]), 4)
    block = 8 * 16 * 36 + 16 * 25 * 36 + 16 * 8 * 36 + 2 * 4 * 16
    assert spec.multiply_adds == 72 * 36 + block + 8 * 4
    fused = BlockSpec("fused", 8, 8, kernel=3, hidden=16)
    assert fused.multiply_adds(6) == 9 * 8 * 16 * 36 + 16 * 8 * 36


def test_spec_comes_back_from_plain_data():
    spec = NetSpec(1, 12, 8, tuple(BLOCKS[:1]), 4)
    assert NetSpec.from_dict(spec.to_dict()) == spec


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"kind": "invertd"}, "must be one of inverted.*got 'invertd'"),
        ({"kind": "regular", "kernel": 4}, "kernel must be odd, got 4"),
        ({"kind": "inverted"}, "hidden channels"),
        ({"kind": "skip", "stride": 2}, "a skip changes neither"),
    ],
)
def test_impossible_blocks_are_refused(settings, told):
    with pytest.raises(ConfigError, match=told):
        BlockSpec(**{"inputs": 8, "outputs": 8, **settings})
