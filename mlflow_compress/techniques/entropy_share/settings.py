"""What ``entropy_share`` can be told."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from mlflow_compress.techniques.base import at_least, between
from mlflow_compress.techniques.data import Training

if TYPE_CHECKING:
    pass

__all__ = ["EntropyShareSettings"]


@dataclass(frozen=True)
class EntropyShareSettings(Training):
    """Settings of ``entropy_share``; those of :class:`Training` count with training data.

    Attributes:
        bits: mean bits per weight to aim at, counted as entropy, 0.02 to 8; the layers share
            them out so that the outputs' relative error is least.
        feedback: let the weights not yet rounded make up for the error of those that are, and
            refit each layer to the changed inputs it gets; needs calibration inputs.
        rows: at most so many calibration rows are used.
        biases: whether biases are rounded to 8 significant bits, but for those that are large
            beside what they are added to.
        exclude: names of tensors to leave alone.
        values: when training, at most so many values per tensor, zero included.
    """

    bits: float = field(default=2.0, metadata={"telling": True})
    feedback: bool = True
    rows: int = 2048
    biases: bool = True
    exclude: tuple[str, ...] = ()
    values: int = 15

    def __post_init__(self) -> None:
        self.check_training("entropy_share")
        between("entropy_share.values", self.values, 3, 255)
        between("entropy_share.bits", self.bits, 0.02, 8)
        at_least("entropy_share.rows", self.rows, 1)
