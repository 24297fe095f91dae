"""What ``float16`` can be told."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    pass

__all__ = ["Float16Settings"]


@dataclass(frozen=True)
class Float16Settings:
    """Settings of ``float16``.

    Attributes:
        exclude: names of tensors to leave in single precision.
    """

    exclude: tuple[str, ...] = ()
