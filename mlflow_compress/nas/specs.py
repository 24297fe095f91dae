"""What a network is made of, as plain data: blocks in a row, then pooling and a classifier."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from mlflow_compress.errors import ConfigError

__all__ = ["BlockSpec", "Kind", "NetSpec"]

Kind = Literal["inverted", "fused", "separable", "regular", "skip"]

KINDS = ("inverted", "fused", "separable", "regular", "skip")
"""Kinds of block.

``inverted`` is MobileNetV2's inverted residual: 1x1 to ``hidden`` channels, depthwise kernel, 1x1
back (arXiv 1801.04381, section 3.3). ``fused`` is the same with one regular convolution in place
of the first two (EfficientNetV2, arXiv 2104.00298, section 3.2). ``separable`` is a depthwise and
a 1x1 convolution (MobileNet, arXiv 1704.04861, section 3.1), ``regular`` one convolution, ``skip``
nothing at all.
"""


@dataclass(frozen=True)
class BlockSpec:
    """One block of fixed shape.

    Attributes:
        kind: see :data:`KINDS`.
        inputs: channels that go in.
        outputs: channels that come out.
        kernel: odd size of the spatial convolution.
        stride: of the spatial convolution, 1 or 2.
        hidden: channels between the convolutions of ``inverted`` and ``fused``; else 0.
        squeeze: squeeze-and-excite after the spatial convolution (arXiv 1709.01507); not in
            ``regular`` and ``skip``.
        residual: add the input to the output, where their shapes agree; ``inverted``,
            ``fused`` and ``separable``.
    """

    kind: Kind
    inputs: int
    outputs: int
    kernel: int = 3
    stride: int = 1
    hidden: int = 0
    squeeze: bool = False
    residual: bool = True

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ConfigError(f"block kind must be one of {', '.join(KINDS)}, got {self.kind!r}")
        if self.kernel < 1 or self.kernel % 2 == 0:
            raise ConfigError(f"a block's kernel must be odd, got {self.kernel}")
        if min(self.inputs, self.outputs, self.stride) < 1:
            raise ConfigError(f"a block's channels and stride must be at least 1, got {self}")
        if (self.kind in ("inverted", "fused")) != (self.hidden > 0):
            raise ConfigError(f"hidden channels are for inverted and fused blocks, got {self}")
        if self.kind == "skip" and (self.inputs != self.outputs or self.stride != 1):
            raise ConfigError(f"a skip changes neither channels nor size, got {self}")

    @property
    def adds_input(self) -> bool:
        """Whether the input is added to the output."""
        fits = self.stride == 1 and self.inputs == self.outputs
        return self.residual and fits and self.kind in ("inverted", "fused", "separable")

    @property
    def squeezed(self) -> int:
        """Channels in the middle of squeeze-and-excite; 0 without."""
        if not self.squeeze or self.kind in ("regular", "skip"):
            return 0
        return max(4, (self.hidden or self.inputs) // 4)

    def size_after(self, size: int) -> int:
        """Return the height of the output for the height of the input."""
        return -(-size // self.stride)

    @property
    def weights(self) -> int:
        """How many weights and biases there are with batch normalisation folded."""
        area, inputs, hidden, outputs = self.kernel**2, self.inputs, self.hidden, self.outputs
        middle, few = hidden or inputs, self.squeezed
        squeeze = 2 * few * middle + few + middle if few else 0
        if self.kind == "inverted":
            return hidden * (inputs + 1 + area + 1) + outputs * (hidden + 1) + squeeze
        if self.kind == "fused":
            return hidden * (inputs * area + 1) + outputs * (hidden + 1) + squeeze
        if self.kind == "separable":
            return inputs * (area + 1) + outputs * (inputs + 1) + squeeze
        return outputs * (inputs * area + 1) if self.kind == "regular" else 0

    def multiply_adds(self, size: int) -> int:
        """Return the multiply-adds of the convolutions for one row whose height is ``size``."""
        before, after, area = size * size, self.size_after(size) ** 2, self.kernel**2
        if self.kind == "inverted":
            spatial = self.hidden * area * after
            dense = self.inputs * self.hidden * before + self.hidden * self.outputs * after
        elif self.kind == "fused":
            spatial = self.inputs * self.hidden * area * after
            dense = self.hidden * self.outputs * after
        elif self.kind == "separable":
            spatial, dense = self.inputs * area * after, self.inputs * self.outputs * after
        else:
            spatial = self.inputs * self.outputs * area * after if self.kind == "regular" else 0
            dense = 0
        return spatial + dense + 2 * self.squeezed * (self.hidden or self.inputs)


@dataclass(frozen=True)
class NetSpec:
    """A whole network of fixed shape: resize, blocks, global average pooling, a linear layer.

    Attributes:
        channels: of the input.
        size: height and width of the input.
        resolution: height and width that the input is resized to first, within the network, so
            that all networks take the same rows.
        blocks: in order, the first takes ``channels``.
        classes: outputs.
    """

    channels: int
    size: int
    resolution: int
    blocks: tuple[BlockSpec, ...]
    classes: int

    def sized(self) -> tuple[tuple[BlockSpec, int], ...]:
        """Return each block with the height of its input."""
        size, found = self.resolution, []
        for block in self.blocks:
            found.append((block, size))
            size = block.size_after(size)
        return tuple(found)

    @property
    def multiply_adds(self) -> int:
        """Multiply-adds for one row."""
        dense = self.blocks[-1].outputs * self.classes
        return dense + sum(block.multiply_adds(size) for block, size in self.sized())

    @property
    def weights(self) -> int:
        """How many weights and biases there are with batch normalisation folded."""
        return sum(block.weights for block in self.blocks) + self.classes * (
            self.blocks[-1].outputs + 1
        )

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for :meth:`from_dict`."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "NetSpec":
        """Return the spec that :meth:`to_dict` was made of."""
        blocks = tuple(BlockSpec(**block) for block in data["blocks"])
        return cls(**{**data, "blocks": blocks})
