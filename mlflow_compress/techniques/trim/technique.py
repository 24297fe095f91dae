"""``trim``: take away what a finished model does not need; smaller for free."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from mlflow_compress.techniques.base import Context, Phase, Result, Technique

if TYPE_CHECKING:
    import onnx

__all__ = ["TECHNIQUE", "Trim", "TrimSettings"]


@dataclass(frozen=True)
class TrimSettings:
    """Settings of ``trim``.

    Attributes:
        units: remove channels and hidden units that no weight reads any more, and those that are
            the same for every input, whose share goes into the next layer's bias.
        attributes: leave out attributes that say what the operator does without them, and
            biases of zeros.
        names: give one- or two-letter names to weights and to the values between nodes, and none
            to nodes; inputs and outputs keep theirs.
    """

    units: bool = True
    attributes: bool = True
    names: bool = True


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
