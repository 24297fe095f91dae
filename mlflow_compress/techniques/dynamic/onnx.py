"""Dynamic int8 by onnxruntime's tools."""

from onnx import ModelProto, TensorProto

from mlflow_compress.techniques.base import Context, Result
from mlflow_compress.techniques.dynamic.settings import DynamicSettings
from mlflow_compress.techniques.graph.walk import (
    initializers,
)
from mlflow_compress.techniques.quantize.finishing import finished, refuse_quantized, tidy
from mlflow_compress.techniques.quantize.preparing import (
    prepared,
)
from mlflow_compress.techniques.quantize.quantizers import dynamic

__all__ = ["quantize_dynamically"]


def quantize_dynamically(model: ModelProto, settings: DynamicSettings, context: Context) -> Result:
    """Quantize the weights of MatMul and Gemm to 8 bits, and their activations at run time.

    Raises:
        TechniqueError: the model is quantized already, has no such weights in its main graph, or
            is refused by onnxruntime.
    """
    refuse_quantized(model)
    ready = prepared(model)
    left = (*ready.exclude, *_not_dynamic(ready.model))
    left = (*left, *(f"{name}_MatMul" for name in left))  # what the tool makes of a Gemm
    made = dynamic(
        ready.model,
        left,
        context.work_dir,
        per_channel=settings.per_channel,
        reduce_range=settings.reduce_range,
    )
    tidy(made, model)
    return finished(model, made, ready)


def _not_dynamic(model: ModelProto) -> list[str]:
    """Return the nodes whose weight is a vector, is rounded along another axis, or is not float32.

    The axis is another one in a stack of matrices.
    """
    held = initializers(model)
    return [
        node.name
        for node in model.graph.node
        if node.op_type in ("MatMul", "Gemm")
        and (weight := held.get(node.input[1])) is not None
        and (len(weight.dims) != 2 or 0 in weight.dims or weight.data_type != TensorProto.FLOAT)
    ]
