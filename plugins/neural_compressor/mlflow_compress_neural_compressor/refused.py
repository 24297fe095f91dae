"""What Neural Compressor 3.10 lists and this plugin does not offer, each with the reason.

``tests/test_refused.py`` runs AWQ, AutoRound, HQQ, SmoothQuant and TEQ to see that theirs still
hold.
"""

from mlflow_compress.errors import ConfigError

__all__ = ["REFUSED", "refuse_algorithm"]

REFUSED = {
    "autoround": "it does not run without the package auto-round, which brings in transformers",
    "awq": "it looks for the blocks of a transformer, and fails where there are none",
    "bf16": "onnxruntime has no bfloat16 layers on CPUs; use the technique float16",
    "dynamic": "what it makes has no form in ONNX; use the technique dynamic",
    "fp16": "use the technique float16",
    "fp8": "its float8 layers have no counterpart in onnxruntime on CPUs",
    "hqq": "its zero points are fractions, which DequantizeLinear has no place for",
    "mx": "its block formats have no type that onnxruntime runs",
    "smoothquant": "it does not run without intel_extension_for_pytorch",
    "static": "it is a technique of its own, neural_compressor_static",
    "teq": "asked for 8 bits it gives those of 4",
}
"""Reasons by the algorithm's name, in lower case."""


def refuse_algorithm(key: str, value: object) -> None:
    """Raise ConfigError with the reason when an algorithm is one of those not offered."""
    if isinstance(value, str) and value.lower() in REFUSED:
        raise ConfigError(f"{key}: {value!r} is not offered: {REFUSED[value.lower()]}")
