"""``shrink``: make the network itself smaller and faster.

Of any model whole channels are removed; of a supernet (:mod:`mlflow_compress.nas`) a smaller
network is taken, whose weights were trained to work on their own.
"""

from typing import TYPE_CHECKING, Any, ClassVar

from mlflow_compress.errors import TechniqueError
from mlflow_compress.techniques.base import (
    Context,
    Phase,
    Result,
    Technique,
)

if TYPE_CHECKING:
    import onnx
from mlflow_compress.techniques.shrink.settings import ShrinkSettings

__all__ = ["TECHNIQUE", "Shrink"]


class Shrink(Technique[ShrinkSettings]):
    """Removes channels of Conv, ConvTranspose, Gemm and MatMul from every tensor they touch.

    Or takes a smaller network out of a supernet.
    """

    name = "shrink"
    settings = ShrinkSettings
    phase = Phase.STRUCTURE
    space: ClassVar[dict[str, Any]] = {
        "ratio": {"low": 0.1, "high": 0.7},
        "scope": {"choices": ["layer", "global"]},
        "round_to": {"choices": [1, 8]},
    }

    def needs_calibration(self, settings: ShrinkSettings) -> bool:
        """The repair and two of the methods look at activations, and so do supernets."""
        if settings.of_supernet:
            return True
        return settings.repair or settings.score != "magnitude"

    def apply(self, model: "onnx.ModelProto", settings: ShrinkSettings, context: Context) -> Result:
        """See :func:`mlflow_compress.techniques.shrink.onnx.shrink`, :class:`Subnets`."""
        if settings.of_supernet:
            return _take(model, settings, context)
        from mlflow_compress.techniques.shrink.onnx import shrink

        return shrink(model, settings, context)


def _take(model: "onnx.ModelProto", settings: ShrinkSettings, context: Context) -> Result:
    """Take a network out of the source, which has to be a supernet."""
    key = next(iter(settings.of_supernet))
    if context.subnets is None:
        raise TechniqueError(
            f"{key} is for supernets (mlflow-compress nas train), and the source is one network: "
            "set ratio"
        )
    if context.source is not None and model != context.source:
        raise TechniqueError("a network is taken from the source itself: put shrink first")
    import numpy as np

    from mlflow_compress.techniques.graph.running import check_calibration

    given = check_calibration(model, context.calibration)
    # drawn, since rows may be sorted by class; statistics of the first would be those of one class
    chosen = np.random.default_rng(context.seed).permutation(given.count)[: settings.rows]
    made = context.subnets.take(settings.of_supernet, given.take(chosen))
    text = next((entry.value for entry in made.metadata_props if entry.key == "subnet"), "")
    return Result(made, notes=(f"network {text} of the supernet",))


TECHNIQUE = Shrink()
