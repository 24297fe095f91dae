"""What ``shrink`` can be told."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from mlflow_compress.errors import ConfigError
from mlflow_compress.techniques.base import (
    at_least,
    between,
    check_choices,
)

if TYPE_CHECKING:
    pass

__all__ = ["ShrinkSettings"]

_BOUNDS = ("resolution", "kernel", "depth", "width")


@dataclass(frozen=True)
class ShrinkSettings:
    """Settings of ``shrink``.

    Attributes:
        ratio: share of the channels to remove, 0 to below 1. At least one of every group stays.
        scope: ``layer`` removes the same share of every group of coupled channels; ``global``
            ranks all channels together, so that each group keeps what it needs.
        method: how a channel's importance is told: ``magnitude`` is the L2 norm of the weights
            that make it; ``wanda`` and ``obs`` estimate from calibration inputs what the layers
            that read it lose with it, ``obs`` less what the channels that stay can make up for;
            ``auto`` is ``obs`` with ``repair`` and ``magnitude`` without.
        round_to: keep a multiple of so many channels in every group.
        repair: refit the layers that read removed channels, and those after them, on calibration
            inputs, so that their outputs match the source's; needs no labels.
        rows: at most so many calibration rows are used.
        exclude: names of weight tensors whose output channels all stay.
        resolution: of a supernet, the largest size that images are resized to.
        kernel: of a supernet, the largest kernel of its blocks.
        depth: of a supernet, the most blocks of a stage.
        width: of a supernet, the most channels inside a block, as a multiple of those that go in.
        subnet: of a supernet, the text of one of its networks, such as ``20: 3x2 5x3 | 7x4``, in
            place of the four bounds. With any of the five no channels are removed.
    """

    ratio: float | None = field(default=0.5, metadata={"telling": True})
    scope: Literal["layer", "global"] = "layer"
    method: Literal["auto", "magnitude", "wanda", "obs"] = "auto"
    round_to: int = 1
    repair: bool = True
    rows: int = 2048
    exclude: tuple[str, ...] = ()
    resolution: int | None = None
    kernel: int | None = None
    depth: int | None = None
    width: int | None = None
    subnet: str | None = None

    def __post_init__(self) -> None:
        check_choices("shrink", self)
        for key in _BOUNDS:
            if getattr(self, key) is not None:
                at_least(f"shrink.{key}", getattr(self, key), 1)
                if self.subnet is not None:
                    raise ConfigError(f"shrink.subnet says all: leave out shrink.{key}")
        if self.of_supernet:
            object.__setattr__(self, "ratio", None)  # one text for one network
            return
        if self.ratio is None:
            raise ConfigError("shrink.ratio must be a number between 0 and 1, got None")
        between("shrink.ratio", self.ratio, 0, 1)
        if self.ratio == 1:
            raise ConfigError("shrink.ratio must be below 1, got 1.0: no network would be left")
        at_least("shrink.round_to", self.round_to, 1)
        at_least("shrink.rows", self.rows, 1)

    @property
    def of_supernet(self) -> Mapping[str, int | str]:
        """What is asked of a supernet; nothing when channels are to be removed."""
        keys = (*_BOUNDS, "subnet")
        return {key: value for key in keys if (value := getattr(self, key)) is not None}

    @property
    def share(self) -> float:
        """The share of the channels to remove."""
        return self.ratio or 0.0

    @property
    def score(self) -> str:
        """The method, with ``auto`` resolved."""
        if self.method != "auto":
            return self.method
        return "obs" if self.repair else "magnitude"
