"""The space of a path search: a stem, and places with several candidate blocks each."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from pydantic import Field, ValidationError

from mlflow_compress.base.strict import Strict
from mlflow_compress.errors import ConfigError
from mlflow_compress.nas.specs import BlockSpec, NetSpec

__all__ = ["PathSpace", "block_label"]


@dataclass(frozen=True)
class PathSpace:
    """What a path search chooses among.

    Attributes:
        channels: of the input.
        size: height and width of the input.
        resolution: what the input is resized to.
        classes: outputs.
        stem: the first block, which is fixed.
        places: the candidates at each place; all of a place map the same shape to the same.
    """

    channels: int
    size: int
    resolution: int
    classes: int
    stem: BlockSpec
    places: tuple[tuple[BlockSpec, ...], ...]

    @classmethod
    def parse(
        cls, data: Mapping[str, Any], *, channels: int, size: int, classes: int
    ) -> "PathSpace":
        """Build the space that a YAML file describes, for images and classes of a data set.

        Args:
            data: keys ``stem``, ``stages``, ``candidates`` and ``resolution``, see docs/nas.md.
            channels: of the images.
            size: their height and width.
            classes: how many there are.

        Raises:
            ConfigError: a key or value that is not allowed; the message names it.
        """
        try:
            read = _Space.model_validate(data)
        except ValidationError as error:
            raise ConfigError(_told(error)) from error
        first = read.stem
        stem = BlockSpec("regular", channels, first.channels, first.kernel, first.stride)
        places, inputs = [], first.channels
        for stage in read.stages:
            for index in range(stage.layers):
                stride = stage.stride if index == 0 else 1
                places.append(tuple(read.candidates.blocks(inputs, stage.channels, stride)))
                inputs = stage.channels
        return cls(channels, size, read.resolution or size, classes, stem, tuple(places))

    @property
    def count(self) -> int:
        """How many networks there are."""
        made = 1
        for place in self.places:
            made *= len(place)
        return made

    def sized(self) -> tuple[tuple[BlockSpec, int], ...]:
        """Return the stem and the first candidate of each place with the height of its input."""
        blocks = (self.stem, *(place[0] for place in self.places))
        return NetSpec(self.channels, self.size, self.resolution, blocks, self.classes).sized()

    def entries(self) -> list[tuple[BlockSpec, int]]:
        """Return every block that can be chosen with the height of its input, once each."""
        stem, *rest = self.sized()
        found = [stem]
        for place, (_, height) in zip(self.places, rest, strict=True):
            found += [(block, height) for block in place if block.kind != "skip"]
        return list(dict.fromkeys(found))

    def draw(self, rng: np.random.Generator) -> NetSpec:
        """Return one of the networks at random."""
        return self.spec([int(rng.integers(len(place))) for place in self.places])

    def spec(self, chosen: Sequence[int]) -> NetSpec:
        """Return the network with these candidates; skips are left out."""
        blocks = [place[index] for place, index in zip(self.places, chosen, strict=True)]
        kept = (self.stem, *(block for block in blocks if block.kind != "skip"))
        return NetSpec(self.channels, self.size, self.resolution, kept, self.classes)


def block_label(block: BlockSpec) -> str:
    """Return what a candidate is called in tables and figures: ``separable 3x3``, ``skip``."""
    if block.kind == "skip":
        return "skip"
    wider = f", {block.hidden // block.inputs}x wide" if block.hidden else ""
    return f"{block.kind} {block.kernel}x{block.kernel}{wider}"


class _Stem(Strict):
    channels: int = Field(default=16, ge=1, le=1024)
    kernel: Literal[1, 3, 5, 7] = 3
    stride: Literal[1, 2] = 2


class _Stage(Strict):
    channels: int = Field(ge=1, le=4096)
    layers: int = Field(default=1, ge=1, le=32)
    stride: Literal[1, 2] = 1


class _Candidates(Strict):
    regular: list[Literal[1, 3, 5, 7]] = Field(default=[3, 5])
    separable: list[Literal[1, 3, 5, 7]] = Field(default=[3, 5])
    inverted: list[Literal[3, 5, 7]] = Field(default=[])
    expand: list[int] = Field(default=[2])
    skip: bool = True

    def blocks(self, inputs: int, outputs: int, stride: int) -> list[BlockSpec]:
        """Return the candidates of one place."""
        shape = (inputs, outputs)
        found = [BlockSpec("regular", *shape, kernel, stride) for kernel in self.regular]
        found += [BlockSpec("separable", *shape, kernel, stride) for kernel in self.separable]
        found += [
            BlockSpec("inverted", *shape, kernel, stride, hidden=inputs * expand)
            for kernel in self.inverted
            for expand in self.expand
        ]
        if self.skip and stride == 1 and inputs == outputs:
            found.append(BlockSpec("skip", *shape))
        if not found:
            raise ConfigError(
                f"candidates: a place from {inputs} to {outputs} channels at stride {stride} has "
                "none; a skip changes no shape, so name kernels of regular, separable or inverted"
            )
        return list(dict.fromkeys(found))


class _Space(Strict):
    resolution: int | None = Field(default=None, ge=4, le=1024)
    stem: _Stem = _Stem()
    stages: list[_Stage] = Field(min_length=1, max_length=64)
    candidates: _Candidates = _Candidates()


def _told(error: ValidationError) -> str:
    """Say in one line what is wrong first."""
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"]) or "space"
    given = "" if first["type"] == "missing" else f", got {first['input']!r}"
    return f"{where}: {first['msg'][0].lower()}{first['msg'][1:]}{given}"
