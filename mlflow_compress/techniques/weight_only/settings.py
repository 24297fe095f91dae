"""What ``weight_only`` can be told."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from mlflow_compress.techniques.base import (
    at_least,
    between,
    check_choices,
)

if TYPE_CHECKING:
    pass

__all__ = ["WeightOnlySettings"]


@dataclass(frozen=True)
class WeightOnlySettings:
    """Settings of ``weight_only``.

    Attributes:
        bits: width of the integers, 2 to 8.
        method: ``gptq`` rounds each weight so that those still to come make up for its error, on
            calibration inputs; ``rtn`` rounds to the nearest and needs none.
        group_size: a scale for every so many inputs of each output of a Gemm or MatMul, 8 to 1024,
            in place of one per output; 0 for none. Other weights, and those whose inputs do not
            divide into such groups, have a scale per output.
        store: ``int8`` can be read by every runtime since opset 13; ``narrow`` takes the narrowest
            type of ONNX that holds the integers (int2, int4 or int8), so that the file is small
            without packing too. Needs opset 21 (IR 10), with int2 opset 25 (IR 13).
        rows: at most so many calibration rows are used.
        exclude: names of weight tensors to leave in float.
    """

    bits: int = field(default=4, metadata={"telling": True})
    method: Literal["gptq", "rtn"] = "gptq"
    group_size: int = 0
    store: Literal["int8", "narrow"] = "int8"
    rows: int = 2048
    exclude: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_choices("weight_only", self)
        between("weight_only.bits", self.bits, 2, 8)
        if self.group_size:
            between("weight_only.group_size", self.group_size, 8, 1024)
        at_least("weight_only.rows", self.rows, 1)
