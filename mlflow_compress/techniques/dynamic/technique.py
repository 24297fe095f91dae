"""``dynamic``: 8-bit matrix products whose activation ranges are read at run time."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from mlflow_compress.techniques.base import Context, Phase, Result, Technique

if TYPE_CHECKING:
    import onnx

__all__ = ["TECHNIQUE", "Dynamic", "DynamicSettings"]


@dataclass(frozen=True)
class DynamicSettings:
    """Settings of ``dynamic``.

    Attributes:
        per_channel: one scale per output channel of a weight rather than one per tensor.
        reduce_range: 7-bit weights, for x86 processors without VNNI, whose 8-bit products can
            saturate.
    """

    per_channel: bool = True
    reduce_range: bool = False


class Dynamic(Technique[DynamicSettings]):
    """Dynamic int8 of MatMul and Gemm by onnxruntime; needs no data.

    Convolutions stay in float: dynamic ones are several times slower than float.
    """

    name = "dynamic"
    settings = DynamicSettings
    phase = Phase.QUANTIZE
    space: ClassVar[dict[str, Any]] = {"per_channel": {"choices": [True, False]}}

    def apply(
        self, model: "onnx.ModelProto", settings: DynamicSettings, context: Context
    ) -> Result:
        """See :func:`mlflow_compress.techniques.quantize.onnx.quantize_dynamically`."""
        from mlflow_compress.techniques.quantize.onnx import quantize_dynamically

        return quantize_dynamically(model, settings, context)


TECHNIQUE = Dynamic()
