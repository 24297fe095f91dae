"""``trim``: take away what a finished model does not need; smaller for free."""

from typing import TYPE_CHECKING

from mlflow_compress.techniques.base import Context, Phase, Result, Technique

if TYPE_CHECKING:
    import onnx
from mlflow_compress.techniques.trim.settings import TrimSettings

__all__ = ["TECHNIQUE", "Trim"]


class Trim(Technique[TrimSettings]):
    """The last step for the smallest files: in a model of a few kilobytes the graph is a third.

    Not lossy: outputs change by rounding only, and the technique checks that they do not by more.
    """

    name = "trim"
    settings = TrimSettings
    phase = Phase.TRIM

    def uses_calibration(self, settings: TrimSettings) -> bool:
        """What is made is compared with the model on them."""
        return True

    def apply(self, model: "onnx.ModelProto", settings: TrimSettings, context: Context) -> Result:
        """See :func:`mlflow_compress.techniques.trim.onnx.trim`."""
        from mlflow_compress.techniques.trim.onnx import trim

        return trim(model, settings, context)


TECHNIQUE = Trim()
