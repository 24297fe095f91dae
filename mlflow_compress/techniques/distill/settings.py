"""What ``distill`` can be told."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from mlflow_compress.techniques.data import Training

if TYPE_CHECKING:
    pass

__all__ = ["DistillSettings"]


@dataclass(frozen=True)
class DistillSettings(Training):
    """Settings of ``distill``: those of :class:`Training`."""

    def __post_init__(self) -> None:
        self.check_training("distill")
