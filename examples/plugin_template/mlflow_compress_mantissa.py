"""``mantissa``: weights keep the leading bits of their mantissas; the packed file gets smaller.

Neither onnx nor numpy is imported here: a configuration is checked on machines without them.
"""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from mlflow_compress.techniques import Context, Phase, Result, Technique, between

if TYPE_CHECKING:
    import onnx

__all__ = ["TECHNIQUE", "Mantissa", "MantissaSettings"]


@dataclass(frozen=True)
class MantissaSettings:
    """Settings of ``mantissa``.

    Attributes:
        bits: bits of the mantissa that stay, of 23.
    """

    bits: int = field(default=6, metadata={"telling": True})  # named in a recipe's label

    def __post_init__(self) -> None:
        """Refuse what cannot be, with the key, the value and what is allowed."""
        between("mantissa.bits", self.bits, 0, 23)


class Mantissa(Technique[MantissaSettings]):
    """Rounds float32 weights to so many bits of mantissa, ties to even."""

    name = "mantissa"
    settings = MantissaSettings
    phase = Phase.SHARE
    space: ClassVar[dict[str, Any]] = {"bits": {"low": 2, "high": 10}}

    def apply(
        self, model: "onnx.ModelProto", settings: MantissaSettings, context: Context
    ) -> Result:
        """Return a new model; the one that is given is not changed.

        Raises:
            TechniqueError: there is no float32 weight to trim.
        """
        import numpy as np
        from onnx import TensorProto, numpy_helper

        from mlflow_compress.errors import TechniqueError
        from mlflow_compress.techniques.graph import clone, float_weights, set_initializer

        made = clone(model)
        weights = [w for w in float_weights(made) if w.tensor.data_type == TensorProto.FLOAT]
        if not weights:
            raise TechniqueError("there is nothing to trim: the model has no float32 weights")
        drop = 23 - settings.bits
        for weight in weights:
            raw = numpy_helper.to_array(weight.tensor).view(np.uint32).astype(np.uint64)
            if drop:
                raw += (1 << (drop - 1)) - 1 + ((raw >> drop) & 1)
                raw = raw >> drop << drop
            set_initializer(weight.tensor, raw.astype(np.uint32).view(np.float32))
        return Result(made)


TECHNIQUE = Mantissa()
