"""``weight_only``: weights of 2 to 8 bits, activations in float."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from mlflow_compress.techniques.base import (
    Context,
    Phase,
    Result,
    Technique,
    at_least,
    between,
    check_choices,
)

if TYPE_CHECKING:
    import onnx

__all__ = ["TECHNIQUE", "WeightOnly", "WeightOnlySettings"]


@dataclass(frozen=True)
class WeightOnlySettings:
    """Settings of ``weight_only``.

    Attributes:
        bits: width of the integers, 2 to 8.
        method: ``gptq`` rounds each weight so that those still to come make up for its error, on
            calibration inputs; ``rtn`` rounds to the nearest and needs none.
        rows: at most so many calibration rows are used.
        exclude: names of weight tensors to leave in float.
    """

    bits: int = field(default=4, metadata={"telling": True})
    method: Literal["gptq", "rtn"] = "gptq"
    rows: int = 2048
    exclude: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_choices("weight_only", self)
        between("weight_only.bits", self.bits, 2, 8)
        at_least("weight_only.rows", self.rows, 1)


class WeightOnly(Technique[WeightOnlySettings]):
    """Symmetric integers with a scale per output channel; pruned zeros stay zeros.

    They are stored as int8 whatever their width: packing takes the unused bits out, and every
    runtime since opset 13 can read them.
    """

    name = "weight_only"
    settings = WeightOnlySettings
    phase = Phase.QUANTIZE
    space: ClassVar[dict[str, Any]] = {"bits": {"choices": [2, 3, 4, 8]}}

    def needs_calibration(self, settings: WeightOnlySettings) -> bool:
        """Rounding to the nearest looks at weights only."""
        return settings.method == "gptq"

    def apply(
        self, model: "onnx.ModelProto", settings: WeightOnlySettings, context: Context
    ) -> Result:
        """See :func:`mlflow_compress.techniques.onnx_weight_only.weight_only`."""
        from mlflow_compress.techniques.onnx_weight_only import weight_only

        return weight_only(model, settings, context)


TECHNIQUE = WeightOnly()
