"""What ``dynamic`` can be told."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    pass

__all__ = ["DynamicSettings"]


@dataclass(frozen=True)
class DynamicSettings:
    """Settings of ``dynamic``.

    Attributes:
        per_channel: one scale per output channel of a weight rather than one per tensor.
        reduce_range: 7-bit weights, for x86 processors without VNNI, whose 8-bit products can
            saturate.
    """

    per_channel: bool = True
    reduce_range: bool = False
