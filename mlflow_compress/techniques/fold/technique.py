"""``fold``: compute once what does not depend on the input; smaller for free."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from mlflow_compress.techniques.base import Context, Phase, Result, Technique

if TYPE_CHECKING:
    import onnx

__all__ = ["TECHNIQUE", "Fold", "FoldSettings"]


@dataclass(frozen=True)
class FoldSettings:
    """Settings of ``fold``.

    Attributes:
        constants: compute nodes whose inputs are constants, and merge BatchNormalization, Mul
            and Add into the Conv before them.
        duplicates: store equal tensors once.
        names: give short names to the values between nodes, and none to nodes; inputs, outputs and
            weights keep theirs. Exported names may take a tenth of a packed file.
        biases: let the next layer add a bias that goes through pooling only; for files of a few
            kilobytes.
    """

    constants: bool = True
    duplicates: bool = True
    names: bool = False
    biases: bool = False


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
