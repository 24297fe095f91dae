"""``fold``: compute once what does not depend on the input; smaller for free."""

from typing import TYPE_CHECKING

from mlflow_compress.techniques.base import Context, Phase, Result, Technique

if TYPE_CHECKING:
    import onnx
from mlflow_compress.techniques.fold.settings import FoldSettings

__all__ = ["TECHNIQUE", "Fold"]


class Fold(Technique[FoldSettings]):
    """Constant folding, BatchNorm folding, removal of dead nodes and of duplicate weights.

    Not lossy: outputs change by rounding only, and the technique checks that they do not by more.
    """

    name = "fold"
    settings = FoldSettings
    phase = Phase.FOLD

    def uses_calibration(self, settings: FoldSettings) -> bool:
        """What is made is compared with the model on them."""
        return True

    def apply(self, model: "onnx.ModelProto", settings: FoldSettings, context: Context) -> Result:
        """See :func:`mlflow_compress.techniques.fold.onnx.fold`."""
        from mlflow_compress.techniques.fold.onnx import fold

        return fold(model, settings, context)


TECHNIQUE = Fold()
