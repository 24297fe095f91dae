"""What every training here shares: rows as tensors, one loop for a network of fixed shape, scores.

Everything runs on one thread: networks this small gain nothing from more.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mlflow_compress.errors import DataError, TechniqueError
from mlflow_compress.techniques.data import Epoch, TrainData
from mlflow_compress.techniques.training.loop import one_thread

__all__ = [
    "Images",
    "Schedule",
    "accuracy",
    "distilled",
    "fit_net",
    "logits",
    "mixed_rows",
    "recalibrate",
]

_EVALUATED = 1000
"""Rows at a time, where nothing is learned."""

_RECALIBRATED = 2048
"""So many rows set the statistics of batch normalisation."""


@dataclass(frozen=True)
class Images:
    """Square images to train on and others to validate on; never those of the evaluation.

    Attributes:
        train: [rows, channels, size, size], float32.
        labels: [rows].
        held: images to choose and to score by.
        held_labels: theirs.
        name: the model input's name.
    """

    train: Tensor
    labels: Tensor
    held: Tensor
    held_labels: Tensor
    name: str = "input"

    @classmethod
    def split(cls, data: TrainData, seed: int = 0) -> "Images":
        """Split training data as every technique does that trains.

        Raises:
            DataError: the inputs are no square images, or there are no labels.
        """
        if len(data.inputs) != 1:
            raise DataError(f"data.train: needs one input, got {', '.join(data.inputs)}")
        ((name, array),) = data.inputs.items()
        if array.ndim != 4 or array.shape[2] != array.shape[3] or array.dtype != np.float32:
            raise DataError(
                f"data.train: {name!r} must be float32 images of [rows, channels, size, size], "
                f"got {array.dtype} of {list(array.shape)}"
            )
        if data.labels is None:
            raise DataError("data.train: the rows have no labels: add an array 'labels'")
        images = torch.from_numpy(array)
        labels = torch.from_numpy(data.labels.astype(np.int64))
        rows, held = (torch.from_numpy(part) for part in data.split(seed))
        return cls(images[rows], labels[rows], images[held], labels[held], name)

    @property
    def classes(self) -> int:
        """How many classes there are."""
        return int(self.labels.max()) + 1

    def epoch(self, batch: int, rng: np.random.Generator) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield an epoch's rows and images in random order, without a rest that fills no batch."""
        order = torch.from_numpy(rng.permutation(len(self.train)))
        for rows in order[: len(order) - len(order) % batch].split(batch):
            images = self.train[rows]
            yield rows, images.to(memory_format=torch.channels_last)


@dataclass(frozen=True)
class Schedule:
    """How to train: SGD with Nesterov momentum of 0.9, the learning rate along a cosine to 0.

    Attributes:
        epochs: how often to go through the rows; may be a fraction.
        learning_rate: at the start.
        batch: rows per step.
        weight_decay: of the weights of convolutions and the classifier.
    """

    epochs: float = 3.0
    learning_rate: float = 0.1
    batch: int = 128
    weight_decay: float = field(default=3e-5, kw_only=True)

    def optimizer(self, module: nn.Module) -> torch.optim.SGD:
        """Return the optimizer of a module's parameters."""
        weights = [p for p in module.parameters() if p.dim() > 1]
        others = [p for p in module.parameters() if p.dim() <= 1]
        groups = [
            {"params": weights, "weight_decay": self.weight_decay},
            {"params": others, "weight_decay": 0.0},
        ]
        return torch.optim.SGD(groups, lr=self.learning_rate, momentum=0.9, nesterov=True)

    def rate(self, progress: float) -> float:
        """Return the learning rate after a share of all steps; it rises over the first 2 %."""
        return self.learning_rate * min(1.0, progress / 0.02 + 0.05) * (
            1 + math.cos(math.pi * progress)
        ) / 2  # fmt: skip


def distilled(made: Tensor, labels: Tensor, taught: Tensor | None) -> Tensor:
    """Return the loss of Once-for-All: cross entropy with labels, and with the teacher's shares.

    Args:
        made: logits of [rows, classes].
        labels: [rows].
        taught: the teacher's logits of [rows, classes], or None.
    """
    loss = F.cross_entropy(made, labels)
    if taught is None:
        return loss
    return loss + F.cross_entropy(made, F.softmax(taught, 1))


def fit_net(
    net: nn.Module,
    images: Images,
    schedule: Schedule,
    *,
    taught: Tensor | None = None,
    seed: int = 0,
    name: str = "net",
    watch: Callable[[Epoch], None] | None = None,
) -> list[Epoch]:
    """Train a network of fixed shape in place, from where it is.

    Args:
        net: the network.
        images: what to train on.
        schedule: how.
        taught: a teacher's logits of all training rows; None learns from labels alone.
        seed: seeds the order of the rows.
        name: what the training is called in its records.
        watch: hears of every epoch.

    Raises:
        TechniqueError: the loss is no longer a number.
    """
    net.to(memory_format=torch.channels_last)
    optimizer = schedule.optimizer(net)
    size = min(schedule.batch, len(images.train))
    steps = max(1, round(schedule.epochs * (len(images.train) // size)))
    history: list[Epoch] = []
    epochs, step, total, count = math.ceil(schedule.epochs), 0, 0.0, 0
    with one_thread():
        while step < steps:
            net.train()
            rng = np.random.default_rng([seed, 5, len(history)])
            for rows, batch in images.epoch(size, rng):
                if step == steps:
                    break
                for group in optimizer.param_groups:
                    group["lr"] = schedule.rate(step / steps)
                teacher = None if taught is None else taught[rows]
                loss = distilled(net(batch), images.labels[rows], teacher)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                total, count, step = total + loss.item(), count + 1, step + 1
            made = logits(net, images.held)
            valid = F.cross_entropy(made, images.held_labels).item()
            score = float((made.argmax(1) == images.held_labels).float().mean())
            history.append(Epoch(name, len(history) + 1, epochs, total / count, valid, score))
            total, count = 0.0, 0
            check_loss(history[-1], schedule.learning_rate)
            if watch is not None:
                watch(history[-1])
    net.eval()
    return history


def check_loss(epoch: Epoch, rate: float) -> None:
    """Raise TechniqueError when an epoch came to a loss that is no number."""
    if not math.isfinite(epoch.loss):
        raise TechniqueError(
            f"{epoch.technique}: training came to a loss of {epoch.loss} in epoch {epoch.epoch}: "
            f"a smaller learning_rate than {rate:g} may help"
        )


@torch.no_grad()
def logits(net: nn.Module, images: Tensor) -> Tensor:
    """Return a network's logits of [rows, classes], in evaluation mode."""
    was_training = net.training
    net.eval()
    with one_thread():
        parts = [
            net(part.to(memory_format=torch.channels_last)) for part in images.split(_EVALUATED)
        ]
    net.train(was_training)
    return torch.cat(parts)


def accuracy(net: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Return the share of rows whose largest logit is right."""
    return float((logits(net, images).argmax(1) == labels).float().mean())


def mixed_rows(count: int, most: int = _RECALIBRATED) -> np.ndarray:
    """Return indices of so many rows at the most, in an order that is random and always the same.

    A file may be sorted by class: its first rows, and batches of rows in its order, would be of
    one or a few classes.

    Args:
        count: how many rows there are.
        most: how many to draw.
    """
    return np.random.default_rng([count, most]).permutation(count)[:most]


@torch.no_grad()
def recalibrate(net: nn.Module, images: Tensor, batch: int = 250) -> None:
    """Set the statistics of batch normalisation to those of some rows, in place.

    Weights that serve many networks have the statistics of none of them (Once-for-All, arXiv
    1908.09791, section 3.3; Yu and Huang, arXiv 1903.05134, section 3.2).

    Args:
        net: the network.
        images: rows of which 2,048 at the most are drawn, always the same of the same number.
        batch: rows at a time, at the most; batches are of one size, since each counts the same.

    Raises:
        DataError: fewer than two rows, which have no variance.
    """
    if len(images) < 2:
        raise DataError(
            f"batch normalisation needs at least two rows to take its statistics from, got "
            f"{len(images)}: give more rows"
        )
    drawn = images[torch.from_numpy(mixed_rows(len(images)))]
    norms = [module for module in net.modules() if isinstance(module, nn.BatchNorm2d)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the plain mean over all batches
    was_training = net.training
    net.train()
    with one_thread():
        for part in drawn.tensor_split(-(-len(drawn) // batch)):
            net(part.to(memory_format=torch.channels_last))
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    net.train(was_training)
