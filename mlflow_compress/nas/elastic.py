"""A network that holds a space of networks: every subnet is a part of its weights.

Once-for-All, arXiv 1908.09791, section 3: smaller kernels are the centre of larger ones through a
learned matrix, shallower stages are the first blocks, narrower blocks the most important channels.
"""

import copy
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mlflow_compress.nas.blocks import ConvBN, Net, SqueezeExcite, resize
from mlflow_compress.nas.space import Space, Stage, Subnet
from mlflow_compress.nas.specs import BlockSpec

__all__ = ["ElasticBlock", "ElasticNet"]


class ElasticBlock(nn.Module):
    """A block whose kernel and hidden channels are chosen at each call.

    Args:
        stage: what there is to choose from.
        inputs: channels.
        stride: of the spatial convolution.
    """

    def __init__(self, stage: Stage, inputs: int, stride: int) -> None:
        super().__init__()
        self.stage, self.inputs, self.stride = stage, inputs, stride
        self.separable = stage.convolution == "separable"
        most, kernel = inputs * stage.width[-1], stage.kernel[-1]
        self.expand = ConvBN(inputs, most) if self.separable else None
        groups = most if self.separable else 1
        self.spatial = ConvBN(most if self.separable else inputs, most, kernel, stride, groups)
        squeezed = BlockSpec("inverted", inputs, inputs, hidden=most, squeeze=True).squeezed
        self.squeeze = SqueezeExcite(most, squeezed) if stage.squeeze else None
        self.project = ConvBN(most, stage.channels, act=False)
        # from each kernel to the next smaller one, begun as its centre
        self.to_smaller = nn.ParameterDict(
            {str(size): nn.Parameter(torch.eye(size * size)) for size in stage.kernel[:-1]}
        )
        self.adds_input = stride == 1 and inputs == stage.channels

    def forward(self, x: Tensor, kernel: int, width: int) -> Tensor:
        """Map [batch, inputs, height, width] to [batch, channels, height / stride, …]."""
        hidden = width * self.inputs
        made = x
        if self.expand is not None:
            weight = self.expand.conv.weight[:hidden]
            made = F.relu(_norm(F.conv2d(made, weight), self.expand.bn))
        groups = hidden if self.separable else 1
        weight = self.spatial_weight(kernel, hidden)
        made = F.conv2d(made, weight, None, self.stride, kernel // 2, 1, groups)
        made = F.relu(_norm(made, self.spatial.bn))
        if self.squeeze is not None:
            made = self._excited(made, hidden)
        made = _norm(F.conv2d(made, self.project.conv.weight[:, :hidden]), self.project.bn)
        return x + made if self.adds_input else made

    def spatial_weight(self, kernel: int, hidden: int) -> Tensor:
        """Return the weight of the spatial convolution, [hidden, …, kernel, kernel]."""
        weight = self.spatial.conv.weight[:hidden]
        for size in reversed(self.stage.kernel[:-1]):
            if size < kernel:
                break
            cut = (weight.shape[-1] - size) // 2
            centre = weight[..., cut : cut + size, cut : cut + size]
            flat = centre.reshape(*centre.shape[:2], size * size) @ self.to_smaller[str(size)]
            weight = flat.reshape(centre.shape)
        return weight

    def _excited(self, x: Tensor, hidden: int) -> Tensor:
        assert self.squeeze is not None
        reduce, expand, few = self.squeeze.reduce, self.squeeze.expand, self._squeezed(hidden)
        share = F.conv2d(x.mean((2, 3), keepdim=True), reduce.weight[:few, :hidden],
                         _part(reduce.bias, few))  # fmt: skip
        share = F.conv2d(F.relu(share), expand.weight[:hidden, :few], _part(expand.bias, hidden))
        return x * F.hardsigmoid(share)

    def _squeezed(self, hidden: int) -> int:
        return BlockSpec("inverted", 1, 1, hidden=hidden, squeeze=True).squeezed

    @torch.no_grad()
    def sort_channels(self) -> None:
        """Put the hidden channels in order of importance; what the block computes stays.

        Importance is the L1 norm of the weights that read a channel (section 3.3 of the paper).
        """
        order = self.project.conv.weight.abs().sum((0, 2, 3)).argsort(descending=True)
        self.project.conv.weight.copy_(self.project.conv.weight[:, order])
        for layer in (self.expand, self.spatial):
            if layer is not None:
                _reorder(layer.conv.weight, order)
                for values in layer.bn.state_dict(keep_vars=True).values():
                    if values.dim():
                        _reorder(values, order)
        if self.squeeze is not None:
            self.squeeze.reduce.weight.copy_(self.squeeze.reduce.weight[:, order])
            _reorder(self.squeeze.expand.weight, order)
            _reorder(_bias(self.squeeze.expand), order)

    @torch.no_grad()
    def write_to(self, layers: Sequence[nn.Module], kernel: int, hidden: int) -> None:
        """Copy the weights of a choice into the layers of a fixed block."""
        left = list(layers)
        if self.expand is not None:
            _copy(left.pop(0), self.expand.conv.weight[:hidden], self.expand.bn)
        _copy(left.pop(0), self.spatial_weight(kernel, hidden), self.spatial.bn)
        if self.squeeze is not None:
            squeeze, few = left.pop(0), self._squeezed(hidden)
            assert isinstance(squeeze, SqueezeExcite)
            squeeze.reduce.weight.copy_(self.squeeze.reduce.weight[:few, :hidden])
            _bias(squeeze.reduce).copy_(_bias(self.squeeze.reduce)[:few])
            squeeze.expand.weight.copy_(self.squeeze.expand.weight[:hidden, :few])
            _bias(squeeze.expand).copy_(_bias(self.squeeze.expand)[:hidden])
        _copy(left.pop(0), self.project.conv.weight[:, :hidden], self.project.bn)


class ElasticNet(nn.Module):
    """All networks of a space in one.

    Args:
        space: the networks.
        channels: of the images.
        size: height and width of the images.
        classes: outputs.
    """

    def __init__(self, space: Space, channels: int, size: int, classes: int) -> None:
        super().__init__()
        self.space, self.channels, self.size, self.classes = space, channels, size, classes
        self.stem = ConvBN(channels, space.stem, 3, space.stem_stride)
        self.stages = nn.ModuleList()
        inputs = space.stem
        for stage in space.stages:
            blocks = nn.ModuleList()
            for index in range(stage.depth[-1]):
                blocks.append(ElasticBlock(stage, inputs, 1 if index else stage.stride))
                inputs = stage.channels
            self.stages.append(blocks)
        self.head = ConvBN(inputs, space.head)
        self.classifier = nn.Linear(space.head, classes)

    def forward(self, x: Tensor, subnet: Subnet | None = None) -> Tensor:
        """Map [batch, channels, size, size] to logits of [batch, classes].

        Args:
            x: images of full size.
            subnet: which part computes; the largest by default.
        """
        subnet = subnet or self.space.subnet()
        x = self.stem(resize(x, subnet.resolution))
        for blocks, chosen in zip(self.stages, subnet.stages, strict=True):
            for block, (kernel, width) in zip(blocks, chosen, strict=False):
                x = block(x, kernel, width)
        made: Tensor = self.classifier(self.head(x).mean((2, 3)))
        return made

    def sort_channels(self) -> None:
        """Put the hidden channels of every block in order of importance."""
        for block in self.modules():
            if isinstance(block, ElasticBlock):
                block.sort_channels()

    def take(self, subnet: Subnet) -> Net:
        """Return a subnet as a network of its own; its batch normalisation is not recalibrated.

        Raises:
            ConfigError: the space has no such subnet.
        """
        self.space.check(subnet)
        net = Net(self.space.spec(subnet, self.channels, self.size, self.classes))
        net.eval()
        stem, *blocks, head = net.blocks
        _copy(stem.layers[0], self.stem.conv.weight, self.stem.bn)
        _copy(head.layers[0], self.head.conv.weight, self.head.bn)
        own = [
            (block, *choice)
            for stage, chosen in zip(self.stages, subnet.stages, strict=True)
            for block, choice in zip(stage, chosen, strict=False)
        ]
        for fixed, (block, kernel, width) in zip(blocks, own, strict=True):
            block.write_to(fixed.layers, kernel, width * block.inputs)
        net.classifier = copy.deepcopy(self.classifier)
        return net


def _norm(x: Tensor, bn: nn.BatchNorm2d) -> Tensor:
    """Apply the first channels of a batch normalisation; training also updates their part."""
    count = x.shape[1]
    mean, var = bn.running_mean, bn.running_var
    assert mean is not None and var is not None and bn.momentum is not None
    return F.batch_norm(
        x, mean[:count], var[:count], bn.weight[:count], bn.bias[:count],
        bn.training, bn.momentum, bn.eps,
    )  # fmt: skip


def _copy(layer: nn.Module, weight: Tensor, bn: nn.BatchNorm2d) -> None:
    """Copy a weight and the first channels of a batch normalisation into a layer."""
    assert isinstance(layer, ConvBN)
    with torch.no_grad():
        layer.conv.weight.copy_(weight)
        for name, values in bn.state_dict().items():
            target = layer.bn.state_dict()[name]
            target.copy_(values[: len(target)] if values.dim() else values)


def _reorder(values: Tensor, order: Tensor) -> None:
    values.copy_(values[order].clone())


def _bias(layer: nn.Conv2d) -> Tensor:
    assert layer.bias is not None
    return layer.bias


def _part(bias: Tensor | None, count: int) -> Tensor:
    assert bias is not None
    return bias[:count]
