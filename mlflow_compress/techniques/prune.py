"""``prune``: set the weights that matter least to zero."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from mlflow_compress.techniques.base import (
    Context,
    Phase,
    Result,
    Technique,
    at_least,
    between,
    check_choices,
)

if TYPE_CHECKING:
    import onnx

__all__ = ["TECHNIQUE", "Prune", "PruneSettings"]


@dataclass(frozen=True)
class PruneSettings:
    """Settings of ``prune``.

    Attributes:
        sparsity: share of the weights that become zero, 0 to 1.
        scope: ``global`` ranks all weights of the model together, so that each layer keeps what
            it needs; ``layer`` prunes each tensor to the same sparsity.
        method: how a weight's importance is told: ``magnitude`` is its absolute value; ``wanda``
            and ``obs`` estimate from calibration inputs what the layer's output loses with it;
            ``auto`` is ``obs`` with ``repair`` and ``magnitude`` without.
        repair: refit the kept weights and biases on calibration inputs, layer by layer, so that
            each layer's output matches the dense one; needs no labels.
        steps: how many times to prune a part and repair; 0 chooses by the sparsity. Only with
            ``repair``.
        rows: at most so many calibration rows are used.
        exclude: names of weight tensors to leave alone.
    """

    sparsity: float = field(default=0.8, metadata={"telling": True})
    scope: Literal["global", "layer"] = "global"
    method: Literal["auto", "magnitude", "wanda", "obs"] = "auto"
    repair: bool = False
    steps: int = 0
    rows: int = 2048
    exclude: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_choices("prune", self)
        between("prune.sparsity", self.sparsity, 0, 1)
        between("prune.steps", self.steps, 0, 100)
        at_least("prune.rows", self.rows, 1)


class Prune(Technique[PruneSettings]):
    """Sets weights of Conv, ConvTranspose, Gemm, MatMul, LSTM, GRU and RNN to exact zeros."""

    name = "prune"
    settings = PruneSettings
    phase = Phase.PRUNE
    space: ClassVar[dict[str, Any]] = {
        "sparsity": {"low": 0.5, "high": 0.97},
        "scope": {"choices": ["global", "layer"]},
    }

    def needs_calibration(self, settings: PruneSettings) -> bool:
        """Only the repair and two of the methods look at activations."""
        return settings.repair or settings.method in ("wanda", "obs")

    def apply(self, model: "onnx.ModelProto", settings: PruneSettings, context: Context) -> Result:
        """See :func:`mlflow_compress.techniques.onnx_prune.prune`."""
        from mlflow_compress.techniques.onnx_prune import prune

        return prune(model, settings, context)


TECHNIQUE = Prune()
