"""How a model takes rows: what a person says of its inputs, and what is then known of it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

__all__ = ["InputLayout", "InputSpec", "Layout"]


@dataclass(frozen=True)
class InputSpec:
    """What a person says of one input, where data and model do not tell.

    Attributes:
        axis: the axis along which the model takes rows; ``none`` when it has no such axis; None
            leaves it to be found out.
        state_of: the output of one call that is this input of the next call; empty for none.
        value: what the input is filled with when the data do not have it.
        mask: the input that is 1 where this one holds a row's values and 0 where it is padded.
        padding: what rows that are shorter than the model's fixed length are filled up with.
    """

    axis: int | Literal["none"] | None = None
    state_of: str = ""
    value: float | None = None
    mask: str = ""
    padding: float = 0.0


@dataclass(frozen=True)
class InputLayout:
    """How a model takes one input.

    Attributes:
        axis: the axis along which rows are put together in a call; None when there is none, so
            that a call takes one row.
        state_of: the output of the call before that this input is; empty for none.
    """

    axis: int | None = 0
    state_of: str = ""


_PLAIN = InputLayout()


@dataclass(frozen=True)
class Layout:
    """How a model takes and gives rows.

    Attributes:
        inputs: the inputs that are taken otherwise than row by row along axis 0.
        batch: rows per call where the model fixes them; None for any number.
        outputs: each output's axis of rows, None for outputs that have none; None in place of the
            mapping when it has not been found out.
        most: rows per call at most, so that what the model computes of them fits into memory; None
            for any number.
    """

    inputs: Mapping[str, InputLayout] = field(default_factory=dict)
    batch: int | None = None
    outputs: Mapping[str, int | None] | None = None
    most: int | None = None

    def of(self, name: str) -> InputLayout:
        """Return how the model takes an input."""
        return self.inputs.get(name, _PLAIN)

    @property
    def states(self) -> dict[str, str]:
        """The output that each state input is of the call before, by input."""
        return {name: one.state_of for name, one in self.inputs.items() if one.state_of}

    @property
    def unusual(self) -> dict[str, Any]:
        """What is not as for ordinary inputs, as plain data; empty for most models."""
        return {
            name: {"axis": one.axis, "state_of": one.state_of}
            for name, one in sorted(self.inputs.items())
            if one != _PLAIN
        }
