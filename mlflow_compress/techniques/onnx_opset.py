"""Raises a model's opset where the file format needs a later one."""

from onnx import ModelProto, checker, shape_inference, version_converter

from mlflow_compress.errors import TechniqueError

__all__ = ["raise_opset"]


def raise_opset(model: ModelProto, least: int) -> ModelProto:
    """Return the model with an opset of at least ``least``: the model itself if it has that.

    Raises:
        TechniqueError: onnx cannot convert the model; names both opsets and the reason.
    """
    opset = next((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), 1)
    if opset >= least:
        return model
    try:
        made = version_converter.convert_version(model, least)
        checker.check_model(made)
        shape_inference.infer_shapes(made, strict_mode=True)
    except (
        RuntimeError,
        checker.ValidationError,
        shape_inference.InferenceError,
        version_converter.ConvertError,
    ) as error:
        reason = (str(error).strip() or "no reason given").splitlines()[0]
        raise TechniqueError(
            f"the portable profile needs opset {least}, and onnx cannot convert this model from "
            f"opset {opset}: {reason} (pack compact instead)"
        ) from error
    del made.graph.value_info[:]
    made.graph.value_info.extend(model.graph.value_info)
    return made
