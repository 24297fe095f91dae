"""How a path is searched, and the two losses of ProxylessNAS (arXiv 1812.00332, section 3.3)."""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from mlflow_compress.base.bounds import BATCH, EPOCHS
from mlflow_compress.errors import ConfigError
from mlflow_compress.nas.training import Schedule
from mlflow_compress.techniques.base import at_least, between, check_choices

__all__ = ["PathSettings", "latency_loss"]


@dataclass(frozen=True)
class PathSettings:
    """How to search.

    Attributes:
        epochs: how often to go through the training rows.
        warmup: epochs at the start in which only weights are learned, by paths drawn evenly.
        every: weight steps between two steps of the gates (section 3.2.1).
        rivals: candidates whose gates are compared in one step; 0 compares all (equation 4).
        alpha_rate: Adam's learning rate for the gates; the published 0.001 is for a hundred
            thousand steps, a search of a thousand needs about 0.03.
        loss: ``multiplicative`` is CE · scale · (log E[latency] / log reference)^weight, in
            microseconds; ``additive`` is CE + weight · E[latency] / reference.
        weight: how much latency counts.
        scale: of the multiplicative loss.
        reference: milliseconds; None takes the target's limit, or what the first network has on
            average where there is none.
        learning_rate: of the weights; falls to 0 along a cosine.
        batch: rows per step.
        weight_decay: of the weights (λ1 of the additive loss).
        retrain_epochs: epochs in which the chosen network is trained from scratch.
    """

    epochs: int = 10
    warmup: int = 2
    every: int = 5
    rivals: int = 2
    alpha_rate: float = 1e-3
    loss: Literal["multiplicative", "additive"] = "multiplicative"
    weight: float = 0.3
    scale: float = 0.2
    reference: float | None = None
    learning_rate: float = 0.05
    batch: int = 128
    weight_decay: float = 3e-5
    retrain_epochs: float = 5.0

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            ConfigError: one is out of range; the message names it.
        """
        check_choices("search", self)
        between("search.epochs", self.epochs, 1, EPOCHS.most)
        between("search.warmup", self.warmup, 0, self.epochs)
        at_least("search.every", self.every, 1)
        at_least("search.rivals", self.rivals, 0)
        if self.rivals == 1:
            raise ConfigError("search.rivals must be 0 or at least 2, got 1: none to compare with")
        between("search.alpha_rate", self.alpha_rate, 1e-8, 10)
        at_least("search.weight", self.weight, 0)
        between("search.scale", self.scale, 1e-6, 1e6)
        if self.reference is not None:
            between("search.reference", self.reference, 1e-6, 1e9)
        between("search.learning_rate", self.learning_rate, 1e-8, 10)
        between("search.batch", self.batch, 1, BATCH.most)
        at_least("search.weight_decay", self.weight_decay, 0)
        between("search.retrain_epochs", self.retrain_epochs, 0, EPOCHS.most)

    def schedule(self, epochs: float) -> Schedule:
        """Return how weights are trained for so many epochs."""
        return Schedule(epochs, self.learning_rate, self.batch, weight_decay=self.weight_decay)


def latency_loss(
    error: Tensor, expected: Tensor, reference: float, settings: PathSettings
) -> Tensor:
    """Return the loss of a gate step.

    Args:
        error: cross entropy.
        expected: milliseconds of a drawn path on average.
        reference: milliseconds.
        settings: which loss, and its weight.
    """
    if settings.loss == "additive":
        return error + settings.weight * expected / reference
    ratio = torch.log(1e3 * expected) / math.log(1e3 * reference)
    return error * settings.scale * ratio**settings.weight
