"""What ``fold`` can be told."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    pass

__all__ = ["FoldSettings"]


@dataclass(frozen=True)
class FoldSettings:
    """Settings of ``fold``.

    Attributes:
        constants: compute nodes whose inputs are constants, and merge BatchNormalization, Mul
            and Add into the Conv before them.
        duplicates: store equal tensors once.
        names: give short names to the values between nodes, and none to nodes; inputs, outputs and
            weights keep theirs. Exported names may take a tenth of a packed file.
        biases: let the next layer add a bias that goes through pooling only; for files of a few
            kilobytes.
    """

    constants: bool = True
    duplicates: bool = True
    names: bool = False
    biases: bool = False
