"""``dynamic``: 8-bit matrix products whose activation ranges are read at run time."""

from typing import TYPE_CHECKING, Any, ClassVar

from mlflow_compress.techniques.base import Context, Phase, Result, Technique

if TYPE_CHECKING:
    import onnx
from mlflow_compress.techniques.dynamic.settings import DynamicSettings

__all__ = ["TECHNIQUE", "Dynamic"]


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
        """See :func:`mlflow_compress.techniques.dynamic.onnx.quantize_dynamically`."""
        from mlflow_compress.techniques.dynamic.onnx import quantize_dynamically

        return quantize_dynamically(model, settings, context)


TECHNIQUE = Dynamic()
