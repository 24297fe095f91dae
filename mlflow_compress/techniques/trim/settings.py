"""What ``trim`` can be told."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    pass

__all__ = ["TrimSettings"]


@dataclass(frozen=True)
class TrimSettings:
    """Settings of ``trim``.

    Attributes:
        units: remove channels and hidden units that no weight reads any more, and those that are
            the same for every input, whose share goes into the next layer's bias.
        attributes: leave out attributes that say what the operator does without them, and
            biases of zeros.
        names: give one- or two-letter names to weights and to the values between nodes, and none
            to nodes; inputs and outputs keep theirs.
    """

    units: bool = True
    attributes: bool = True
    names: bool = True
