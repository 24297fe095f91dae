"""What ``repair`` can be told."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from mlflow_compress.errors import ConfigError
from mlflow_compress.techniques.base import at_least

if TYPE_CHECKING:
    pass

__all__ = ["RepairSettings"]


@dataclass(frozen=True)
class RepairSettings:
    """Settings of ``repair``; at least one of the first three must be on.

    Attributes:
        weights: refit each layer by least squares against the source's activations. Zeros stay
            zeros; of a layer whose weights share a few values only these values are refitted.
        norms: set the statistics of each BatchNormalization so that its outputs have the mean and
            the spread that they have in the source.
        biases: move each bias so that the layer's mean output is the source's.
        rows: at most so many calibration rows are used; every fifth is held back to judge.
    """

    weights: bool = True
    norms: bool = True
    biases: bool = True
    rows: int = 2048

    def __post_init__(self) -> None:
        if not (self.weights or self.norms or self.biases):
            raise ConfigError("repair needs one of weights, norms and biases, got all three off")
        at_least("repair.rows", self.rows, 2)
