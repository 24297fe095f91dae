"""What ``share`` can be told."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from mlflow_compress.techniques.base import (
    between,
    check_choices,
)
from mlflow_compress.techniques.data import Training

if TYPE_CHECKING:
    pass

__all__ = ["ShareSettings"]


@dataclass(frozen=True)
class ShareSettings(Training):
    """Settings of ``share``; those of :class:`Training` count when there are training data.

    Attributes:
        clusters: how many different values a tensor may hold, zero included, 2 to 4096.
        start: where k-means begins; ``auto`` is exact dynamic programming for up to 32 clusters
            and the best of the other three above.
        biases: whether biases share values too (at least 32 of them).
        exclude: names of tensors to leave alone.
    """

    clusters: int = field(default=16, metadata={"telling": True})
    start: Literal["auto", "linear", "density", "quantile"] = "auto"
    biases: bool = True
    exclude: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_choices("share", self)
        self.check_training("share")
        between("share.clusters", self.clusters, 2, 4096)
