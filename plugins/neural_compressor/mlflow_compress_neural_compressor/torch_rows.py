"""Layers as products of rows with a matrix, which is what Neural Compressor can quantize.

Its GPTQ takes ``nn.Linear`` only (it lists convolutions, and fails on them), so a convolution
becomes patches and a Linear.
"""

from collections.abc import Container

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mlflow_compress.techniques.training import GraphConv, Interpreter, padding

__all__ = ["OneBlock", "Rows", "row_scales", "weight_layers"]


def weight_layers(module: Interpreter) -> dict[str, tuple[str, nn.Module]]:
    """Return the layers with a weight matrix, in order: (key in ``module.layers``, layer).

    The keys are the names of the weights' initializers.
    """
    keys = {layer: key for key, layer in module.layers.items()}
    kinds = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, GraphConv)
    found = {}
    for name, values in module.trained().items():
        layer = module.layer_of(name) if values.dim() > 1 else None
        if isinstance(layer, kinds):
            found[name] = (keys[layer], layer)
    return dict(sorted(found.items(), key=lambda item: int(item[1][0])))


def row_scales(weight: Tensor) -> Tensor:
    """Return a power of two for each row of a matrix, [rows], that brings it to 1 or above.

    Neural Compressor keeps scales as float16, which knows nothing below 6e-8 and little below
    6e-5; after division by these they are far from that.
    """
    top = weight.abs().amax(dim=1)
    return torch.where(top > 0, 2.0 ** torch.floor(torch.log2(top)), torch.ones_like(top))


class Rows(nn.Module):
    """A layer whose matrix is an ``nn.Linear`` without bias, for the time of quantization.

    Neural Compressor quantizes layers one after the other, each on what the quantized ones before
    it give, only where the name has a ``q`` and a ``k`` in it; else the first three go together.
    """

    def __init__(self, layer: nn.Module) -> None:
        """Take the weights of a Linear or of a convolution without groups."""
        super().__init__()
        self.held = (layer,)  # in a tuple, so that it is not found as a module
        inner = layer.conv if isinstance(layer, GraphConv) else layer
        weight = inner.weight.detach().flatten(1)
        self.scales = row_scales(weight)
        self.qk = nn.Linear(weight.shape[1], weight.shape[0], bias=False)
        self.qk.weight.requires_grad_(False)
        self.qk.weight.copy_(weight / self.scales[:, None])
        self.bias = None if inner.bias is None else inner.bias.detach()

    def forward(self, x: Tensor) -> Tensor:
        """Compute what the layer computes."""
        (layer,) = self.held
        convolves = not isinstance(layer, nn.Linear)
        rows = _patches(layer, x) if convolves else x
        # GPTQ takes rows in one axis, and its quantized layer keeps a bias as float16
        made = self.qk(rows.reshape(-1, rows.shape[-1])) * self.scales
        if self.bias is not None:
            made = made + self.bias
        made = made.reshape(*rows.shape[:-1], -1)
        return made.movedim(-1, 1) if convolves else made


class Hidden(nn.Module):
    """A layer that Neural Compressor must not find: it would quantize what is to stay in float."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.held = (layer,)

    def forward(self, x: Tensor) -> Tensor:
        """Compute what the layer computes."""
        made: Tensor = self.held[0](x)
        return made


class _Block(nn.Module):
    """A network that gives back its first input.

    GPTQ replaces a block's inputs with its outputs after each layer of it that it has quantized,
    and looks at the next layer on those.
    """

    def __init__(self, net: Interpreter) -> None:
        super().__init__()
        self.net = net

    def forward(self, *inputs: Tensor) -> Tensor:
        """Run the network, for the sake of what goes into its layers."""
        self.net(*inputs)
        return inputs[0]


class OneBlock(nn.Module):
    """A whole network as the only block of a list, which is where GPTQ looks for layers."""

    prefix = "blocks.0.net.layers"
    """What Neural Compressor puts before a layer's key."""

    def __init__(self, module: Interpreter, chosen: Container[str]) -> None:
        """Put ``Rows`` in the place of the layers with these weights; hide the others."""
        super().__init__()
        for name, (key, layer) in weight_layers(module).items():
            module.layers[key] = Rows(layer) if name in chosen else Hidden(layer)
        self.blocks = nn.ModuleList([_Block(module.eval())])

    def forward(self, *inputs: Tensor) -> Tensor:
        """Run the network."""
        made: Tensor = self.blocks[0](*inputs)
        return made


def _patches(layer: nn.Module, x: Tensor) -> Tensor:
    """Return what each output of a convolution sees: [batch, places ..., channels x kernel]."""
    if isinstance(layer, GraphConv):
        size = layer.conv.weight.shape[2:]
        around, strides, dilations = padding(layer.spec, x.shape[2:], size)
    else:
        size = layer.weight.shape[2:]
        around = [(int(p), int(p)) for p in layer.padding]
        strides, dilations = list(layer.stride), list(layer.dilation)
    x = F.pad(x, [n for pair in reversed(around) for n in pair])
    rank = len(size)
    for axis, (kernel, stride, dilation) in enumerate(zip(size, strides, dilations, strict=True)):
        x = x.unfold(2 + axis, (kernel - 1) * dilation + 1, stride)[..., ::dilation]
    # [batch, channels, places ..., kernel ...]
    return x.movedim(1, rank + 1).flatten(rank + 1)
