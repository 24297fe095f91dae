"""What the two techniques can be told."""

from dataclasses import dataclass, field
from typing import Literal

from mlflow_compress.errors import ConfigError
from mlflow_compress.techniques import at_least, between, check_choices, one_of
from mlflow_compress_neural_compressor.refused import refuse_algorithm

__all__ = ["BITS", "StaticSettings", "WeightSettings"]

BITS = (2, 3, 4, 8)


@dataclass(frozen=True)
class StaticSettings:
    """Settings of ``neural_compressor_static``.

    Attributes:
        method: how the range of each activation is read from the calibration inputs: ``minmax``,
            or ``kl`` (from a histogram).
        per_channel: one scale per output channel of a weight rather than one per tensor.
        rows: at most so many calibration rows are used.
        exclude: names of weight tensors whose layers stay in float.
    """

    method: Literal["minmax", "kl"] = "minmax"
    per_channel: bool = True
    rows: int = 128
    exclude: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_choices("neural_compressor_static", self)
        at_least("neural_compressor_static.rows", self.rows, 1)


@dataclass(frozen=True)
class WeightSettings:
    """Settings of ``neural_compressor``.

    Attributes:
        bits: width of the integers: 2, 3, 4 or 8.
        algorithm: ``gptq`` rounds each weight so that those still to come make up for its error,
            on calibration inputs; ``rtn`` rounds to the nearest and needs none.
        group_size: a scale for every so many inputs of each output of a Gemm or MatMul, 8 to 1024,
            in place of one per output; 0 for none. Convolutions have a scale per output.
        symmetric: the zero point in the middle, as is the library's own default; at 2 bits that
            leaves three values, or with GPTQ four that do not lie about zero. 8 bits are always
            symmetric.
        search_range: look for the range of each scale that makes the rounding error least; with
            GPTQ at 2 bits that costs more than it gains.
        damping: share of the mean of the inputs' energies that GPTQ adds to each of them.
        store: ``narrow`` takes the narrowest type of ONNX that holds the integers (uint2, uint4 or
            uint8); needs opset 21 (IR 10), with uint2 opset 25 (IR 13). ``uint8`` can be read by
            every runtime since opset 13, with groups since opset 21.
        rows: at most so many calibration rows are used.
        exclude: names of weight tensors to leave in float.
    """

    bits: int = field(default=4, metadata={"telling": True})
    algorithm: Literal["gptq", "rtn"] = field(default="gptq", metadata={"telling": True})
    group_size: int = 0
    symmetric: bool = False
    search_range: bool = False
    damping: float = 0.01
    store: Literal["narrow", "uint8"] = "narrow"
    rows: int = 512
    exclude: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        name = "neural_compressor"
        refuse_algorithm(f"{name}.algorithm", self.algorithm)
        check_choices(name, self)
        one_of(f"{name}.bits", self.bits, BITS)
        if self.group_size:
            between(f"{name}.group_size", self.group_size, 8, 1024)
        if not 0 < self.damping <= 1:
            raise ConfigError(f"{name}.damping must be above 0 and at most 1, got {self.damping!r}")
        at_least(f"{name}.rows", self.rows, 1)
