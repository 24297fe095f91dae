"""Trains a supernet by progressive shrinking: kernel, then depth, then width.

Once-for-All, arXiv 1908.09791, section 3.3, with its order, its teacher and its numbers of subnets
per step. Two things are added. Where a step trains several subnets, the smallest is always one of
them, and in the last phase the largest too (the sandwich rule; Yu and Huang, arXiv 1903.05134,
section 3.1): what is drawn at random seldom comes near the ends. And everything is seeded by phase
and epoch, so that a training that was killed ends with the same weights.
"""

import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from mlflow_compress.errors import ConfigError, TechniqueError
from mlflow_compress.nas.elastic import ElasticNet
from mlflow_compress.nas.space import Opened, Space, Subnet
from mlflow_compress.nas.training import (
    Images,
    Schedule,
    accuracy,
    distilled,
    logits,
    recalibrate,
)
from mlflow_compress.techniques.training.checkpoints import read_checkpoint, write_checkpoint
from mlflow_compress.techniques.training.loop import one_thread

__all__ = ["Phase", "Progress", "TrainingPlan", "phases", "train_supernet"]


_LAST_OF_A_KIND = 4
"""The last phase of depth and of width takes so many times as long as each before it; the paper
trains them for 25 and 120 epochs."""

_SCORED = 2000
"""Rows on which the largest and the smallest subnet are scored after each epoch."""


@dataclass(frozen=True)
class TrainingPlan:
    """How a supernet is trained.

    Attributes:
        full: epochs of the largest network.
        kernel: epochs with kernels opened.
        depth: epochs with depths opened, all phases of it together.
        width: epochs with widths opened, all phases of it together.
        learning_rate: of the first phase; the later ones begin at half of it.
        batch: rows per step.
        seed: of everything random.
    """

    full: float = 3.0
    kernel: float = 1.0
    depth: float = 1.0
    width: float = 3.0
    learning_rate: float = 0.2
    batch: int = 128
    seed: int = 0

    def __post_init__(self) -> None:
        for key in ("full", "kernel", "depth", "width"):
            if not getattr(self, key) > 0:
                raise ConfigError(f"train.{key} must be above 0 epochs, got {getattr(self, key)}")
        if not 0 < self.learning_rate <= 10:
            told = f"above 0 and at most 10, got {self.learning_rate}"
            raise ConfigError(f"train.learning_rate must be {told}")
        if self.batch < 2:
            raise ConfigError(f"train.batch must be at least 2, got {self.batch}")


@dataclass(frozen=True)
class Phase:
    """One phase.

    Attributes:
        name: ``full``, ``kernel``, ``depth 2``, ``width 3``: what is opened, and how many choices.
        opened: the choices.
        schedule: how long and how fast.
        subnets: how many each step trains.
        sandwich: whether the largest is always one of them; the smallest is where there are two.
    """

    name: str
    opened: Opened
    schedule: Schedule
    subnets: int = 1
    sandwich: bool = False


@dataclass(frozen=True)
class Progress:
    """What one epoch came to.

    Attributes:
        phase: its name.
        epoch: number over all phases, from 1.
        epochs: how many there are in all.
        loss: mean over steps and subnets.
        largest: accuracy of the largest subnet of the phase on rows held out.
        smallest: that of the smallest.
        seconds: CPU seconds of the epoch.
    """

    phase: str
    epoch: int
    epochs: int
    loss: float
    largest: float
    smallest: float
    seconds: float


def phases(space: Space, recipe: TrainingPlan) -> list[Phase]:
    """Return the phases of a training; a kind with one choice has none."""
    kernels, depths, widths = (
        max(len(getattr(stage, kind)) for stage in space.stages)
        for kind in ("kernel", "depth", "width")
    )
    later = recipe.learning_rate / 2
    found = [Phase("full", Opened(1, 1, 1), _schedule(recipe, recipe.full, recipe.learning_rate))]
    if kernels > 1:
        opened = Opened(None, 1, 1)
        found.append(Phase("kernel", opened, _schedule(recipe, recipe.kernel, later)))
    for count, epochs in _shares(depths, recipe.depth):
        opened = Opened(None, count, 1)
        found.append(Phase(f"depth {count}", opened, _schedule(recipe, epochs, later), 2))
    for count, epochs in _shares(widths, recipe.width):
        opened, last = Opened(None, None, count), count == widths
        schedule = _schedule(recipe, epochs, later)
        found.append(Phase(f"width {count}", opened, schedule, 4, sandwich=last))
    return found


def _schedule(recipe: TrainingPlan, epochs: float, rate: float) -> Schedule:
    return Schedule(epochs, rate, recipe.batch)


def _shares(choices: int, epochs: float) -> list[tuple[int, float]]:
    """Return the numbers of open choices, one phase each, with its share of the epochs."""
    parts = [1.0] * (choices - 2) + [float(_LAST_OF_A_KIND)]
    return [(n + 2, epochs * part / sum(parts)) for n, part in enumerate(parts) if choices > 1]


def train_supernet(
    net: ElasticNet,
    images: Images,
    recipe: TrainingPlan,
    *,
    watch: Callable[[Progress], None] | None = None,
    checkpoint: Path | None = None,
) -> list[Progress]:
    """Train a supernet in place, phase by phase.

    Its own batch normalisation ends with the statistics of the largest network.

    Args:
        net: the supernet, newly initialised.
        images: what to train on.
        recipe: how.
        watch: hears of every epoch, also of those that a checkpoint has.
        checkpoint: a file that is written after every epoch and read at the start, so that a
            training that was killed goes on where it was; it stays at the end.

    Raises:
        TechniqueError: the loss is no longer a number.
    """
    with one_thread():
        run = _Run(net.to(memory_format=torch.channels_last), images, recipe)
        if checkpoint is not None and checkpoint.exists():
            run.load(checkpoint)
        for progress in run.history:
            if watch is not None:
                watch(progress)
        while not run.is_over:
            progress = run.epoch()
            if checkpoint is not None:
                run.save(checkpoint)
            if watch is not None:
                watch(progress)
        run.finish()
    return run.history


@dataclass
class _Run:
    """One training, epoch by epoch."""

    net: ElasticNet
    images: Images
    recipe: TrainingPlan
    history: list[Progress] = field(default_factory=list)
    taught: Tensor | None = None
    optimizer: torch.optim.SGD | None = None

    def __post_init__(self) -> None:
        self.phases = phases(self.net.space, self.recipe)
        self.counts = [max(1, int(np.ceil(p.schedule.epochs))) for p in self.phases]
        few = 2 * self.recipe.batch
        if len(self.images.train) < few:
            raise ConfigError(f"train.batch: {self.recipe.batch} rows per step need {few} rows")

    @property
    def is_over(self) -> bool:
        return len(self.history) >= sum(self.counts)

    def epoch(self) -> Progress:
        begin, number = time.process_time(), len(self.history)
        index, epoch = self._place(number)
        phase = self.phases[index]
        if epoch == 0:
            self._begin(phase)
        assert self.optimizer is not None
        rng = np.random.default_rng([self.recipe.seed, index, epoch])
        dice = random.Random(f"{self.recipe.seed} {index} {epoch}")
        each = len(self.images.train) // phase.schedule.batch
        steps = max(1, round(phase.schedule.epochs * each))
        self.net.train()
        total, count = 0.0, 0
        for rows, batch in self.images.epoch(phase.schedule.batch, rng):
            step = epoch * each + count
            if step >= steps:
                break
            for group in self.optimizer.param_groups:
                group["lr"] = phase.schedule.rate(step / steps)
            total += self._step(phase, rows, batch, dice)
            count += 1
        if not np.isfinite(total):
            raise TechniqueError(
                f"supernet, phase {phase.name}: the loss is no longer a number: a smaller "
                f"train.learning_rate than {self.recipe.learning_rate:g} may help"
            )
        opened = self.net.space.smallest(phase.opened)
        made = Progress(
            phase.name, number + 1, sum(self.counts), total / max(count, 1),
            self._score(self.net.space.subnet()), self._score(opened),
            time.process_time() - begin,
        )  # fmt: skip
        self.history.append(made)
        return made

    def finish(self) -> None:
        largest = self.net.take(self.net.space.subnet())
        recalibrate(largest, self.images.train)
        for own, settled in zip(_norms(self.net), _norms(largest), strict=True):
            own.load_state_dict(settled.state_dict())
        self.net.eval()

    def save(self, path: Path) -> None:
        assert self.optimizer is not None
        state = {
            "net": self.net.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "history": self.history,
            "taught": self.taught,
        }
        write_checkpoint(state, path)

    def load(self, path: Path) -> None:
        """Go on from a checkpoint; one that is damaged is as good as none."""
        state = read_checkpoint(path, Progress)
        if state is None:
            return
        self.net.load_state_dict(state["net"])
        self.history, self.taught = state["history"], state["taught"]
        index, _ = self._place(len(self.history) - 1)
        self.optimizer = self.phases[index].schedule.optimizer(self.net)
        self.optimizer.load_state_dict(state["optimizer"])

    def _place(self, number: int) -> tuple[int, int]:
        """Return the phase of an epoch, and its number within it."""
        for index, count in enumerate(self.counts):
            if number < count:
                return index, number
            number -= count
        return len(self.counts) - 1, self.counts[-1]

    def _begin(self, phase: Phase) -> None:
        if phase.name != "full" and self.taught is None:
            teacher = self.net.take(self.net.space.subnet())
            # the statistics so far are those of all resolutions together, and it has one
            recalibrate(teacher, self.images.train)
            self.taught = logits(teacher, self.images.train)
        if phase.name.startswith("width"):
            self.net.sort_channels()
        self.optimizer = phase.schedule.optimizer(self.net)

    def _step(self, phase: Phase, rows: Tensor, batch: Tensor, dice: random.Random) -> float:
        """Train some subnets on the same rows, their gradients averaged."""
        assert self.optimizer is not None
        self.optimizer.zero_grad()
        chosen, total = self._chosen(phase, dice), 0.0
        taught = None if self.taught is None else self.taught[rows]
        for subnet in chosen:
            made = self.net(batch, subnet)
            loss = distilled(made, self.images.labels[rows], taught) / len(chosen)
            loss.backward()
            total += loss.item()
        self.optimizer.step()
        return total

    def _chosen(self, phase: Phase, dice: random.Random) -> list[Subnet]:
        space = self.net.space
        always = [space.smallest(phase.opened)] if phase.subnets > 1 else []
        if phase.sandwich:
            always.append(space.subnet())
        drawn = [space.draw(dice, phase.opened) for _ in range(phase.subnets - len(always))]
        return always + drawn

    def _score(self, subnet: Subnet) -> float:
        net = self.net.take(subnet)
        recalibrate(net, self.images.train)
        return accuracy(net, self.images.held[:_SCORED], self.images.held_labels[:_SCORED])


def _norms(net: torch.nn.Module) -> list[torch.nn.BatchNorm2d]:
    return [module for module in net.modules() if isinstance(module, torch.nn.BatchNorm2d)]
