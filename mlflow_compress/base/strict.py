"""The base of every schema: what it does not know is refused, and nothing is changed later."""

from pydantic import BaseModel, ConfigDict

__all__ = ["Strict"]


class Strict(BaseModel):
    """A part of a file that people write."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
