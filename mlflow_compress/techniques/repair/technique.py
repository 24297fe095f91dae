"""``repair``: bring a compressed model's outputs back towards the source's, without labels."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from mlflow_compress.errors import ConfigError
from mlflow_compress.techniques.base import Context, Phase, Result, Technique, at_least

if TYPE_CHECKING:
    import onnx

__all__ = ["TECHNIQUE", "Repair", "RepairSettings"]


@dataclass(frozen=True)
class RepairSettings:
    """Settings of ``repair``; at least one of the first three must be on.

    Attributes:
        weights: refit each layer by least squares against the source's activations. Zeros stay
            zeros; of a layer whose weights share a few values only these values are refitted.
        norms: set the statistics of each BatchNormalization so that its outputs have the mean and
            the spread that they have in the source.
        biases: move each bias so that the layer's mean output is the source's.
        rows: at most so many calibration rows are used; every fifth is held back to judge.
    """

    weights: bool = True
    norms: bool = True
    biases: bool = True
    rows: int = 2048

    def __post_init__(self) -> None:
        if not (self.weights or self.norms or self.biases):
            raise ConfigError("repair needs one of weights, norms and biases, got all three off")
        at_least("repair.rows", self.rows, 2)


class Repair(Technique[RepairSettings]):
    """Refits weights, BatchNormalization statistics and biases, each only where it helps."""

    name = "repair"
    settings = RepairSettings
    phase = Phase.REPAIR
    space: ClassVar[dict[str, Any]] = {
        "weights": {"choices": [True, False]},
        "biases": {"choices": [True, False]},
    }

    def needs_calibration(self, settings: RepairSettings) -> bool:
        """Always: the source's activations are what it repairs by."""
        return True

    def apply(self, model: "onnx.ModelProto", settings: RepairSettings, context: Context) -> Result:
        """See :func:`mlflow_compress.techniques.repair.onnx.restore`."""
        from mlflow_compress.techniques.repair.onnx import restore

        return restore(model, settings, context)


TECHNIQUE = Repair()
