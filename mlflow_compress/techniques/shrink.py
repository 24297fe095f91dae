"""``shrink``: remove whole channels, so that the network itself becomes smaller and faster."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from mlflow_compress.errors import ConfigError
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

__all__ = ["TECHNIQUE", "Shrink", "ShrinkSettings"]


@dataclass(frozen=True)
class ShrinkSettings:
    """Settings of ``shrink``.

    Attributes:
        ratio: share of the channels to remove, 0 to below 1. At least one of every group stays.
        scope: ``layer`` removes the same share of every group of coupled channels; ``global``
            ranks all channels together, so that each group keeps what it needs.
        method: how a channel's importance is told: ``magnitude`` is the L2 norm of the weights
            that make it; ``wanda`` and ``obs`` estimate from calibration inputs what the layers
            that read it lose with it, ``obs`` less what the channels that stay can make up for;
            ``auto`` is ``obs`` with ``repair`` and ``magnitude`` without.
        round_to: keep a multiple of so many channels in every group.
        repair: refit the layers that read removed channels, and those after them, on calibration
            inputs, so that their outputs match the source's; needs no labels.
        rows: at most so many calibration rows are used.
        exclude: names of weight tensors whose output channels all stay.
    """

    ratio: float = field(default=0.5, metadata={"telling": True})
    scope: Literal["layer", "global"] = "layer"
    method: Literal["auto", "magnitude", "wanda", "obs"] = "auto"
    round_to: int = 1
    repair: bool = True
    rows: int = 2048
    exclude: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_choices("shrink", self)
        between("shrink.ratio", self.ratio, 0, 1)
        if self.ratio == 1:
            raise ConfigError("shrink.ratio must be below 1, got 1.0: no network would be left")
        at_least("shrink.round_to", self.round_to, 1)
        at_least("shrink.rows", self.rows, 1)

    @property
    def score(self) -> str:
        """The method, with ``auto`` resolved."""
        if self.method != "auto":
            return self.method
        return "obs" if self.repair else "magnitude"


class Shrink(Technique[ShrinkSettings]):
    """Removes channels of Conv, ConvTranspose, Gemm and MatMul from every tensor they touch."""

    name = "shrink"
    settings = ShrinkSettings
    phase = Phase.STRUCTURE
    space: ClassVar[dict[str, Any]] = {
        "ratio": {"low": 0.1, "high": 0.7},
        "scope": {"choices": ["layer", "global"]},
        "round_to": {"choices": [1, 8]},
    }

    def needs_calibration(self, settings: ShrinkSettings) -> bool:
        """Only the repair and two of the methods look at activations."""
        return settings.repair or settings.score != "magnitude"

    def apply(self, model: "onnx.ModelProto", settings: ShrinkSettings, context: Context) -> Result:
        """See :func:`mlflow_compress.techniques.onnx_shrink.shrink`."""
        from mlflow_compress.techniques.onnx_shrink import shrink

        return shrink(model, settings, context)


TECHNIQUE = Shrink()
