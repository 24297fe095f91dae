"""What ``prune`` can be told."""

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from mlflow_compress.errors import ConfigError
from mlflow_compress.techniques.base import (
    at_least,
    between,
    check_choices,
)
from mlflow_compress.techniques.data import Training

if TYPE_CHECKING:
    pass

__all__ = ["PruneSettings"]


@dataclass(frozen=True)
class PruneSettings(Training):
    """Settings of ``prune``; those of :class:`Training` count when there are training data.

    Attributes:
        sparsity: share of the weights that become zero, 0 to 1.
        scope: ``global`` ranks all weights of the model together, so that each layer keeps what
            it needs; ``layer`` prunes each tensor to the same sparsity.
        pattern: ``N:M`` keeps N of every M weights that lie side by side along a layer's inputs,
            for hardware that needs it; the sparsity is then 1 - N/M, whatever ``sparsity`` says,
            and tensors that do not divide into Ms are left alone. Empty for none.
        method: how a weight's importance is told: ``magnitude`` is its absolute value; ``wanda``
            and ``obs`` estimate from calibration inputs what the layer's output loses with it;
            ``auto`` is ``obs`` with ``repair`` and ``magnitude`` without.
        repair: refit the kept weights and biases on calibration inputs, layer by layer, so that
            each layer's output matches the dense one; needs no labels.
        steps: how many times to prune a part and repair; 0 chooses by the sparsity. Only with
            ``repair``.
        rows: at most so many calibration rows are used.
        exclude: names of weight tensors to leave alone.
        rewind: after training to the sparsity, set what is kept back to the source's values and
            train once more.
    """

    sparsity: float = field(default=0.8, metadata={"telling": True})
    scope: Literal["global", "layer"] = "global"
    method: Literal["auto", "magnitude", "wanda", "obs"] = "auto"
    pattern: str = ""
    repair: bool = False
    steps: int = 0
    rows: int = 2048
    exclude: tuple[str, ...] = ()
    rewind: bool = False

    def __post_init__(self) -> None:
        check_choices("prune", self)
        self.check_training("prune")
        between("prune.sparsity", self.sparsity, 0, 1)
        self.kept_of()
        between("prune.steps", self.steps, 0, 100)
        at_least("prune.rows", self.rows, 1)

    def kept_of(self) -> tuple[int, int] | None:
        """Return N and M of the pattern, or None.

        Raises:
            ConfigError: the pattern is not N:M with 1 <= N < M <= 64.
        """
        if not self.pattern:
            return None
        match = re.fullmatch(r"(\d+):(\d+)", self.pattern)
        if match is None or not 1 <= int(match[1]) < int(match[2]) <= 64:
            raise ConfigError(
                f"prune.pattern must be N:M with 1 <= N < M <= 64, such as 2:4, "
                f"got {self.pattern!r}"
            )
        return int(match[1]), int(match[2])
