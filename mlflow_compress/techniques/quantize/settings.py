"""What ``quantize`` can be told."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from mlflow_compress.techniques.base import (
    at_least,
    between,
    check_choices,
)
from mlflow_compress.techniques.data import Training

if TYPE_CHECKING:
    pass

__all__ = ["QuantizeSettings"]


@dataclass(frozen=True)
class QuantizeSettings(Training):
    """Settings of ``quantize``; those of :class:`Training` count when there are training data.

    Attributes:
        method: how the range of each activation is read from the calibration inputs: ``minmax``,
            ``percentile``, or ``entropy`` (the range whose histogram has the least KL divergence
            from its quantized self).
        per_channel: one scale per output channel of a weight rather than one per tensor.
        rows: at most so many calibration rows are used.
        percentile: share of the values that ``percentile`` keeps in range, in percent.
        reduce_range: 7-bit weights, for x86 processors without VNNI, whose 8-bit products can
            saturate.
        exclude: names of nodes that stay in float.
        keep_float: so many layers stay in float, those whose quantization alone changes the
            outputs most; -1 keeps as many as it takes to bring the sum of the changes under 1 %
            of the outputs' variance, at most half of them.
        equalize: scale the channels between neighbouring layers to like ranges first, without
            changing what the model computes.
        correct_bias: move biases so that each layer's mean output stays what it was.
    """

    method: Literal["minmax", "percentile", "entropy"] = "minmax"
    per_channel: bool = True
    rows: int = 128
    percentile: float = 99.999
    reduce_range: bool = False
    exclude: tuple[str, ...] = ()
    keep_float: int = 0
    equalize: bool = False
    correct_bias: bool = False

    def __post_init__(self) -> None:
        self.check_training("quantize")
        check_choices("quantize", self)  # onnxruntime's "distribution" method ruins models
        at_least("quantize.rows", self.rows, 1)
        at_least("quantize.keep_float", self.keep_float, -1)
        between("quantize.percentile", self.percentile, 50, 100)
