"""Blocks and whole networks of fixed shape, in PyTorch; elastic and path networks end in these."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mlflow_compress.nas.specs import BlockSpec, NetSpec

__all__ = ["Block", "ConvBN", "Net", "SqueezeExcite", "resize"]


class ConvBN(nn.Module):
    """Convolution without bias, batch normalisation, and ReLU if ``act``.

    Args:
        inputs: channels.
        outputs: channels.
        kernel: odd; the input is padded so that stride 1 keeps its size.
        stride: of the convolution.
        groups: of the convolution.
        act: whether ReLU follows.
    """

    def __init__(
        self, inputs: int, outputs: int, kernel: int = 1, stride: int = 1, groups: int = 1,
        act: bool = True,
    ) -> None:  # fmt: skip
        super().__init__()
        self.conv = nn.Conv2d(
            inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False
        )
        self.bn = nn.BatchNorm2d(outputs)
        self.act = act

    def forward(self, x: Tensor) -> Tensor:
        """Map [batch, inputs, height, width] to [batch, outputs, height / stride, …]."""
        x = self.bn(self.conv(x))
        return F.relu(x) if self.act else x


class SqueezeExcite(nn.Module):
    """Scales each channel by what all of them average to (arXiv 1709.01507; hard sigmoid)."""

    def __init__(self, channels: int, squeezed: int) -> None:
        super().__init__()
        self.reduce = nn.Conv2d(channels, squeezed, 1)
        self.expand = nn.Conv2d(squeezed, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return [batch, channels, height, width] scaled."""
        share = self.expand(F.relu(self.reduce(x.mean((2, 3), keepdim=True))))
        return x * F.hardsigmoid(share)


class Block(nn.Module):
    """The block of a spec, newly initialised."""

    def __init__(self, spec: BlockSpec) -> None:
        super().__init__()
        self.spec = spec
        self.layers = nn.Sequential(*_layers(spec))

    def forward(self, x: Tensor) -> Tensor:
        """Map [batch, inputs, height, width] to [batch, outputs, height / stride, …]."""
        made = self.layers(x)
        return x + made if self.spec.adds_input else made


def _layers(spec: BlockSpec) -> list[nn.Module]:
    inputs, hidden, outputs = spec.inputs, spec.hidden, spec.outputs
    middle = hidden or inputs
    squeeze = [SqueezeExcite(middle, spec.squeezed)] if spec.squeezed else []
    if spec.kind == "inverted":
        depthwise = ConvBN(hidden, hidden, spec.kernel, spec.stride, groups=hidden)
        return [ConvBN(inputs, hidden), depthwise, *squeeze, ConvBN(hidden, outputs, act=False)]
    if spec.kind == "fused":
        spatial = ConvBN(inputs, hidden, spec.kernel, spec.stride)
        return [spatial, *squeeze, ConvBN(hidden, outputs, act=False)]
    if spec.kind == "separable":
        depthwise = ConvBN(inputs, inputs, spec.kernel, spec.stride, groups=inputs)
        return [depthwise, *squeeze, ConvBN(inputs, outputs)]
    if spec.kind == "regular":
        return [ConvBN(inputs, outputs, spec.kernel, spec.stride)]
    return []


class Net(nn.Module):
    """The network of a spec, newly initialised."""

    def __init__(self, spec: NetSpec) -> None:
        super().__init__()
        self.spec = spec
        self.blocks = nn.ModuleList(Block(block) for block in spec.blocks)
        self.classifier = nn.Linear(spec.blocks[-1].outputs, spec.classes)

    def forward(self, x: Tensor) -> Tensor:
        """Map [batch, channels, size, size] to logits of [batch, classes]."""
        x = resize(x, self.spec.resolution)
        for block in self.blocks:
            x = block(x)
        made: Tensor = self.classifier(x.mean((2, 3)))
        return made


def resize(x: Tensor, resolution: int) -> Tensor:
    """Return [batch, channels, height, width] of another height and width, bilinear."""
    if x.shape[-1] == resolution:
        return x
    x = F.interpolate(x, (resolution, resolution), mode="bilinear", align_corners=False)
    return x.contiguous(memory_format=torch.channels_last)
