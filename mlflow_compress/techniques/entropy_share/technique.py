"""``entropy_share``: the values that cost the fewest bits for the error they make."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from mlflow_compress.techniques.base import Context, Phase, Result, Technique, at_least, between
from mlflow_compress.techniques.data import Training

if TYPE_CHECKING:
    import onnx

__all__ = ["TECHNIQUE", "EntropyShare", "EntropyShareSettings"]


@dataclass(frozen=True)
class EntropyShareSettings(Training):
    """Settings of ``entropy_share``; those of :class:`Training` count with training data.

    Attributes:
        bits: mean bits per weight to aim at, counted as entropy, 0.02 to 8; the layers share
            them out so that the outputs' relative error is least.
        feedback: let the weights not yet rounded make up for the error of those that are, and
            refit each layer to the changed inputs it gets; needs calibration inputs.
        rows: at most so many calibration rows are used.
        biases: whether biases are rounded to 8 significant bits, but for those that are large
            beside what they are added to.
        exclude: names of tensors to leave alone.
        values: when training, at most so many values per tensor, zero included.
    """

    bits: float = field(default=2.0, metadata={"telling": True})
    feedback: bool = True
    rows: int = 2048
    biases: bool = True
    exclude: tuple[str, ...] = ()
    values: int = 15

    def __post_init__(self) -> None:
        self.check_training("entropy_share")
        between("entropy_share.values", self.values, 3, 255)
        between("entropy_share.bits", self.bits, 0.02, 8)
        at_least("entropy_share.rows", self.rows, 1)


class EntropyShare(Technique[EntropyShareSettings]):
    """Entropy-constrained quantization to a uniform grid per tensor; pruned zeros stay zeros."""

    name = "entropy_share"
    settings = EntropyShareSettings
    phase = Phase.SHARE
    space: ClassVar[dict[str, Any]] = {"bits": {"low": 0.2, "high": 4.0, "log": True}}

    def needs_calibration(self, settings: EntropyShareSettings) -> bool:
        """Without feedback all inputs count alike, and none are needed."""
        return settings.feedback

    def apply(
        self, model: "onnx.ModelProto", settings: EntropyShareSettings, context: Context
    ) -> Result:
        """See :func:`mlflow_compress.techniques.entropy_share.onnx.entropy_share`."""
        if context.train is not None and settings.epochs:
            from mlflow_compress.techniques.entropy_share.torch import entropy_share as trained

            return trained(model, settings, context)
        from mlflow_compress.techniques.entropy_share.onnx import entropy_share

        return entropy_share(model, settings, context)


TECHNIQUE = EntropyShare()
