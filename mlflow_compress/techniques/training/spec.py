"""What every operator of :mod:`~mlflow_compress.techniques.training.operators` is given."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from torch import Tensor

from mlflow_compress.errors import TechniqueError

__all__ = ["Operator", "Outputs", "Spec", "Value", "integers", "need", "optional"]

Value: TypeAlias = Tensor | None
Outputs: TypeAlias = Tensor | tuple[Tensor, ...]


@dataclass(frozen=True)
class Spec:
    """What a node says about itself.

    Attributes:
        label: the node, for messages.
        attributes: its attributes as Python values.
        opset: version of the standard operators.
        outputs: how many outputs it has.
    """

    label: str
    attributes: Mapping[str, Any]
    opset: int
    outputs: int = 1

    def get(self, name: str, default: Any = None) -> Any:
        """Return an attribute; texts as str."""
        value = self.attributes.get(name, default)
        return value.decode() if isinstance(value, bytes) else value

    def refuse(self, reason: str) -> TechniqueError:
        """Return the error that says why this node cannot be trained through."""
        return TechniqueError(f"{self.label}: {reason}")


Operator = Callable[[Spec, Sequence[Value]], Outputs]


def optional(values: Sequence[Value], index: int) -> Value:
    """Return an input, None where it is left out."""
    return values[index] if index < len(values) else None


def need(values: Sequence[Value], index: int = 0) -> Tensor:
    """Return an input that must be there."""
    value = values[index]
    if value is None:
        raise TechniqueError(f"input {index} is missing")
    return value


def integers(spec: Spec, values: Sequence[Value], index: int, name: str) -> list[int] | None:
    """Return an argument that is an input in newer operators and an attribute in older ones."""
    value = optional(values, index)
    if value is not None:
        return [int(item) for item in value.reshape(-1).tolist()]
    found = spec.get(name)
    return None if found is None else [int(item) for item in found]
