"""What ``separable`` can be told."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from mlflow_compress.techniques.base import at_least, between
from mlflow_compress.techniques.data import Training

if TYPE_CHECKING:
    pass

__all__ = ["MOST_FILTERS", "SeparableSettings"]

MOST_FILTERS = 16
"""More filters per input channel are no separable convolution any more."""


@dataclass(frozen=True)
class SeparableSettings(Training):
    """Settings of ``separable``; those of :class:`Training` count when there are training data.

    Attributes:
        rank: depthwise filters per input channel. 0 takes for each layer the fewest with which
            its error is within ``max_error``.
        max_error: a layer is rewritten when it loses at most this share of the variance of its
            outputs, 0 to 1, before anything is trained; without ``repair``, of the sum of its
            squared weights.
        repair: find the filters by the second moments of the layer's calibration inputs, and
            refit the pointwise weights and the layers behind by least squares; needs no labels.
        rows: at most so many calibration rows are used.
        layers: names of the weights to rewrite, ``*`` for anything; all when empty.
        exclude: names of weights to leave alone, ``*`` for anything.
    """

    rank: int = field(default=1, metadata={"telling": True})
    max_error: float = 0.5
    repair: bool = True
    rows: int = 2048
    layers: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        self.check_training("separable")
        between("separable.rank", self.rank, 0, MOST_FILTERS)
        between("separable.max_error", self.max_error, 0, 1)
        at_least("separable.rows", self.rows, 1)
