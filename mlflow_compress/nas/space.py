"""The space of subnets: what a YAML file says, the points in it, and the network of each point."""

import math
import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field

from mlflow_compress.base import bounds
from mlflow_compress.base.spelling import closest
from mlflow_compress.base.strict import Strict
from mlflow_compress.errors import ConfigError
from mlflow_compress.nas.specs import BlockSpec, NetSpec

__all__ = ["Bounds", "Opened", "Space", "Stage", "Subnet"]


def _ascending(values: tuple[Any, ...]) -> tuple[Any, ...]:
    if list(values) != sorted(set(values)):
        raise ValueError(f"must be in ascending order, each once, got {list(values)}")
    return values


def _odd(values: tuple[int, ...]) -> tuple[int, ...]:
    if any(value % 2 == 0 for value in values):
        raise ValueError(f"must be odd, got {list(values)}")
    return values


Positive = Annotated[int, Field(ge=1, le=bounds.WIDTH.most)]
Choices = Annotated[tuple[Positive, ...], Field(min_length=1), AfterValidator(_ascending)]
Kernels = Annotated[Choices, AfterValidator(_odd)]


class Stage(Strict):
    """Blocks of one width at one size; the first block changes both."""

    channels: Positive = Field(description="that come out of each block")
    depth: Choices = Field(default=(1,), description="how many blocks there may be")
    stride: Literal[1, 2] = Field(default=1, description="of the first block")
    kernel: Kernels = Field(default=(3,), description="sizes of each block's spatial convolution")
    width: Choices = Field(
        default=(4,), description="channels inside a block, as a multiple of those that go in"
    )
    squeeze: bool = Field(default=False, description="squeeze-and-excite in each block")
    convolution: Literal["separable", "regular"] = Field(
        default="separable",
        description="separable: 1x1, depthwise, 1x1 (inverted residual); regular: one convolution "
        "in place of the first two",
    )


class Space(Strict):
    """All subnets of an elastic network."""

    resolutions: Choices = Field(description="sizes that images may be resized to")
    stem: Positive = Field(default=16, description="channels of the first convolution, 3x3")
    stem_stride: Literal[1, 2] = 2
    stages: tuple[Stage, ...] = Field(min_length=1)
    head: Positive = Field(default=96, description="channels before the classifier")

    @property
    def size(self) -> int:
        """How many subnets there are."""
        each = [
            sum((len(s.kernel) * len(s.width)) ** depth for depth in s.depth) for s in self.stages
        ]
        return len(self.resolutions) * math.prod(each)

    def subnet(self, limits: "Bounds | None" = None) -> "Subnet":
        """Return the largest subnet within limits."""
        limits = limits or Bounds()
        stages = [
            ((_most(s.kernel, limits.kernel, "kernel"), _most(s.width, limits.width, "width")),)
            * _most(s.depth, limits.depth, "depth")
            for s in self.stages
        ]
        return Subnet(_most(self.resolutions, limits.resolution, "resolution"), tuple(stages))

    def smallest(self, opened: "Opened | None" = None) -> "Subnet":
        """Return the subnet whose every choice is the least of those that are open."""
        opened = opened or Opened()
        stages = [
            ((_largest(s.kernel, opened.kernel)[0], _largest(s.width, opened.width)[0]),)
            * _largest(s.depth, opened.depth)[0]
            for s in self.stages
        ]
        return Subnet(self.resolutions[0], tuple(stages))

    def draw(self, rng: random.Random, opened: "Opened | None" = None) -> "Subnet":
        """Return a subnet at random, of the choices that are open (all by default)."""
        opened = opened or Opened()
        stages = []
        for stage in self.stages:
            depth = rng.choice(_largest(stage.depth, opened.depth))
            kernels = _largest(stage.kernel, opened.kernel)
            widths = _largest(stage.width, opened.width)
            stages.append(tuple((rng.choice(kernels), rng.choice(widths)) for _ in range(depth)))
        return Subnet(rng.choice(self.resolutions), tuple(stages))

    def mutate(self, subnet: "Subnet", rng: random.Random, rate: float) -> "Subnet":
        """Return a subnet each of whose choices is drawn anew with a probability of ``rate``."""
        other, stages = self.draw(rng), []
        for stage, mine, drawn in zip(self.stages, subnet.stages, other.stages, strict=True):
            depth = rng.choice(stage.depth) if rng.random() < rate else len(mine)
            blocks = [*mine, *drawn, *((stage.kernel[-1], stage.width[-1]),) * stage.depth[-1]]
            stages.append(
                tuple(
                    (
                        rng.choice(stage.kernel) if rng.random() < rate else kernel,
                        rng.choice(stage.width) if rng.random() < rate else width,
                    )
                    for kernel, width in blocks[:depth]
                )
            )
        resolution = other.resolution if rng.random() < rate else subnet.resolution
        return Subnet(resolution, tuple(stages))

    def cross(self, one: "Subnet", other: "Subnet", rng: random.Random) -> "Subnet":
        """Return a subnet whose stages and resolution come from either parent."""
        stages = [rng.choice(pair) for pair in zip(one.stages, other.stages, strict=True)]
        return Subnet(rng.choice((one.resolution, other.resolution)), tuple(stages))

    def check(self, subnet: "Subnet") -> None:
        """Raise ConfigError when a subnet is not one of this space."""
        if len(subnet.stages) != len(self.stages):
            raise ConfigError(
                f"subnet {subnet}: has {len(subnet.stages)} stages, the space {len(self.stages)}"
            )
        _known("resolution", subnet.resolution, self.resolutions)
        for stage, blocks in zip(self.stages, subnet.stages, strict=True):
            _known("depth", len(blocks), stage.depth)
            for kernel, width in blocks:
                _known("kernel", kernel, stage.kernel)
                _known("width", width, stage.width)

    def spec(self, subnet: "Subnet", channels: int, size: int, classes: int) -> NetSpec:
        """Return the network of a subnet for images of ``channels`` x ``size`` x ``size``."""
        blocks = [BlockSpec("regular", channels, self.stem, 3, self.stem_stride)]
        inputs = self.stem
        for stage, chosen in zip(self.stages, subnet.stages, strict=True):
            kind: Any = "inverted" if stage.convolution == "separable" else "fused"
            for index, (kernel, width) in enumerate(chosen):
                stride = 1 if index else stage.stride
                hidden = width * inputs
                blocks.append(
                    BlockSpec(kind, inputs, stage.channels, kernel, stride, hidden, stage.squeeze)
                )
                inputs = stage.channels
        blocks.append(BlockSpec("regular", inputs, self.head, 1))
        return NetSpec(channels, size, subnet.resolution, tuple(blocks), classes)

    def names(self, subnet: "Subnet") -> list[str]:
        """Return a name for each block of :meth:`spec`, the same in all subnets that have it."""
        stages = [
            f"stage{number}.{index}"
            for number, blocks in enumerate(subnet.stages, 1)
            for index in range(1, len(blocks) + 1)
        ]
        return ["stem", *stages, "head"]

    def all_blocks(self, channels: int, size: int, classes: int) -> Iterator[tuple[BlockSpec, int]]:
        """Yield every block that a subnet may have, with the height of its input."""
        seen = set()
        for resolution in self.resolutions:
            kinds = {(k, w) for stage in self.stages for k in stage.kernel for w in stage.width}
            for kernel, width in sorted(kinds):
                stages = tuple(((kernel, width),) * max(s.depth) for s in self.stages)
                spec = self.spec(Subnet(resolution, stages), channels, size, classes)
                for index, entry in enumerate(spec.sized()):
                    if entry not in seen and self._has(index, kernel, width):
                        seen.add(entry)
                        yield entry

    def _has(self, index: int, kernel: int, width: int) -> bool:
        """Whether the block at a place of the largest network may have a kernel and a width."""
        for stage in self.stages:
            if 0 < index <= max(stage.depth):
                return kernel in stage.kernel and width in stage.width
            index -= max(stage.depth)
        return True  # stem and head


@dataclass(frozen=True)
class Opened:
    """How many of the largest choices of each kind are open; None is all of them."""

    kernel: int | None = None
    depth: int | None = None
    width: int | None = None


@dataclass(frozen=True)
class Bounds:
    """A bound for every choice of a kind; None leaves it open."""

    resolution: int | None = None
    kernel: int | None = None
    depth: int | None = None
    width: int | None = None


@dataclass(frozen=True)
class Subnet:
    """One point of a space.

    Attributes:
        resolution: size that images are resized to.
        stages: for each stage the kernel and width of each of its blocks.
    """

    resolution: int
    stages: tuple[tuple[tuple[int, int], ...], ...]

    def __str__(self) -> str:
        """Return a text for :meth:`parse`: ``20: 3x2 5x3 | 7x4`` (kernel x width)."""
        stages = [" ".join(f"{k}x{w}" for k, w in blocks) for blocks in self.stages]
        return f"{self.resolution}: {' | '.join(stages)}"

    @classmethod
    def parse(cls, text: str) -> "Subnet":
        """Read what :meth:`__str__` wrote.

        Raises:
            ConfigError: it is not of that form.
        """
        head, _, rest = text.partition(":")
        stages = [stage.split() for stage in rest.split("|")]
        blocks = [[re.fullmatch(r"(\d+)x(\d+)", block) for block in stage] for stage in stages]
        if not head.strip().isdecimal() or not all(b and all(b) for b in blocks):
            raise ConfigError(
                f"subnet must be of the form '20: 3x2 5x3 | 7x4' (resolution, then kernel x width "
                f"of each block, stages parted by |), got {text!r}"
            )
        pairs = [tuple((int(m[1]), int(m[2])) for m in b if m is not None) for b in blocks]
        return cls(int(head), tuple(pairs))

    def features(self, space: Space) -> list[float]:
        """Return numbers that a predictor can learn from, 0 to 1, of the same length for all."""
        found = [_place(self.resolution, space.resolutions)]
        for stage, blocks in zip(space.stages, self.stages, strict=True):
            found.append(_place(len(blocks), stage.depth))
            for index in range(max(stage.depth)):
                kernel, width = blocks[index] if index < len(blocks) else (0, 0)
                found += [_place(kernel, stage.kernel), _place(width, stage.width)]
        return found


def _place(value: int, choices: Sequence[int]) -> float:
    """Return where a value stands among the choices; 0 is for what is not there."""
    return (choices.index(value) + 1) / len(choices) if value in choices else 0.0


def _most(choices: Sequence[int], bound: int | None, key: str) -> int:
    """Return the largest choice within a bound.

    Raises:
        ConfigError: there is none.
    """
    within = [value for value in choices if bound is None or value <= bound]
    if not within:
        listed = ", ".join(map(str, choices))
        raise ConfigError(f"shrink.{key}: the supernet has {listed}, got {bound}")
    return within[-1]


def _largest(choices: Sequence[int], count: int | None) -> Sequence[int]:
    return choices if count is None else choices[-count:]


def _known(key: str, value: int, choices: Sequence[int]) -> None:
    if value not in choices:
        listed = ", ".join(map(str, choices))
        hint = closest(str(value), map(str, choices))
        raise ConfigError(f"subnet: {key} must be one of {listed}, got {value}{hint}")
