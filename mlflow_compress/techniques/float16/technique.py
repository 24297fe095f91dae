"""``float16``: weights in half precision, computed with in single."""

from typing import TYPE_CHECKING

from mlflow_compress.techniques.base import Context, Phase, Result, Technique

if TYPE_CHECKING:
    import onnx
from mlflow_compress.techniques.float16.settings import Float16Settings

__all__ = ["TECHNIQUE", "Float16"]


class Float16(Technique[Float16Settings]):
    """Stores float32 weights as float16 behind a Cast, which runtimes fold while they load.

    Half the size and the speed of the source: the safest of all lossy steps.
    """

    name = "float16"
    settings = Float16Settings
    phase = Phase.QUANTIZE

    def apply(
        self, model: "onnx.ModelProto", settings: Float16Settings, context: Context
    ) -> Result:
        """See :func:`mlflow_compress.techniques.float16.onnx.float16`."""
        from mlflow_compress.techniques.float16.onnx import float16

        return float16(model, settings)


TECHNIQUE = Float16()
