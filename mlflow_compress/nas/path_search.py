"""Searches a path by gradient descent: weights on training rows, gates on validation rows.

ProxylessNAS (Cai, Zhu and Han, arXiv 1812.00332), section 3, with both of its losses.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from mlflow_compress.errors import ConfigError, TechniqueError
from mlflow_compress.nas.blocks import Net
from mlflow_compress.nas.latency import LatencyTable
from mlflow_compress.nas.path_settings import PathSettings, latency_loss
from mlflow_compress.nas.path_space import PathSpace, block_label
from mlflow_compress.nas.paths import PathNet
from mlflow_compress.nas.specs import NetSpec
from mlflow_compress.nas.training import Images, accuracy, fit_net, recalibrate
from mlflow_compress.techniques.data import Epoch
from mlflow_compress.techniques.training.checkpoints import read_checkpoint, write_checkpoint
from mlflow_compress.techniques.training.loop import one_thread

__all__ = ["FoundPath", "PathEpoch", "gate_rows", "retrain", "search_paths"]


@dataclass(frozen=True)
class PathEpoch:
    """What one epoch of a search came to.

    Attributes:
        epoch: its number, from 1.
        epochs: how many are planned.
        loss: mean cross entropy of the weight steps, each on a path of its own.
        score: accuracy of the likeliest network on the rows held out.
        expected_ms: latency of a drawn path on average, by the table.
        likeliest_ms: latency of the likeliest network, by the table.
        probabilities: p of each candidate at each place.
    """

    epoch: int
    epochs: int
    loss: float
    score: float
    expected_ms: float
    likeliest_ms: float
    probabilities: tuple[tuple[float, ...], ...]

    @property
    def decided(self) -> float:
        """Mean over the places of the likeliest candidate's probability."""
        return sum(max(p) for p in self.probabilities) / len(self.probabilities)


@dataclass(frozen=True)
class FoundPath:
    """What a search found.

    Attributes:
        spec: the likeliest network.
        chosen: the candidate at each place.
        reference: milliseconds that latency was compared with.
        history: every epoch.
        notes: what a person should know.
    """

    spec: NetSpec
    chosen: tuple[int, ...]
    reference: float
    history: tuple[PathEpoch, ...] = field(default=())
    notes: tuple[str, ...] = ()


def search_paths(
    space: PathSpace,
    images: Images,
    table: LatencyTable,
    settings: PathSettings,
    *,
    limit: float | None = None,
    seed: int = 0,
    watch: Callable[[PathEpoch], None] | None = None,
    checkpoint: Path | None = None,
) -> FoundPath:
    """Search the path that is best by accuracy and latency on one device.

    Args:
        space: what to choose among.
        images: rows to train on; the gates learn on those held out.
        table: the device's latencies.
        settings: how.
        limit: the target's limit in milliseconds, the reference where settings have none.
        seed: seeds weights, paths and the order of the rows.
        watch: hears of every epoch, those of a checkpoint included.
        checkpoint: a file that is written after every epoch and read at the start, so that a
            search that was killed goes on after its last whole epoch. It stays when the search
            is over: who gave it removes it.

    Raises:
        ConfigError: the reference or the latencies are too small for a logarithm of microseconds.
        TechniqueError: the loss is no longer a number.
    """
    with one_thread():
        run = _Search(space, images, table, settings, limit, seed)
        if checkpoint is not None and checkpoint.exists():
            run.load(checkpoint)
        for made in run.history:
            if watch is not None:
                watch(made)
        while len(run.history) < settings.epochs:
            made = run.epoch()
            if checkpoint is not None:
                run.save(checkpoint)
            if watch is not None:
                watch(made)
    return run.found()


def retrain(
    spec: NetSpec,
    images: Images,
    settings: PathSettings,
    *,
    seed: int = 0,
    watch: Callable[[Epoch], None] | None = None,
) -> Net:
    """Return the network of a spec, trained from scratch."""
    torch.manual_seed(seed)
    net = Net(spec)
    if settings.retrain_epochs:
        schedule = settings.schedule(settings.retrain_epochs)
        fit_net(net, images, schedule, seed=seed, name="retrain", watch=watch)
    return net.eval()


class _Search:
    """One search, epoch by epoch."""

    def __init__(
        self,
        space: PathSpace,
        images: Images,
        table: LatencyTable,
        settings: PathSettings,
        limit: float | None,
        seed: int,
    ) -> None:
        self.space, self.images, self.table = space, images, table
        self.settings, self.seed = settings, seed
        self.history: list[PathEpoch] = []
        torch.manual_seed(seed)
        self.net = PathNet(space)
        self.net.to(memory_format=torch.channels_last)
        self.reference = settings.reference or limit or self._expected()
        self._check_logarithms()
        self.schedule = settings.schedule(settings.epochs)
        self.by_weights = self.schedule.optimizer(_Weights(self.net))
        # β1 = 0 (section 4.1): no momentum moves gates that were not compared in a step
        self.by_gates = torch.optim.Adam(self.net.alphas(), settings.alpha_rate, betas=(0.0, 0.999))

    def epoch(self) -> PathEpoch:
        number, settings = len(self.history), self.settings
        rng = np.random.default_rng([self.seed, 11, number])
        batch = min(settings.batch, len(self.images.train))
        steps = len(self.images.train) // batch
        total = 0.0
        self.net.train()
        for index, (rows, images) in enumerate(self.images.epoch(batch, rng)):
            rate = self.schedule.rate((number * steps + index) / (settings.epochs * steps))
            total += self._learn_weights(images, self.images.labels[rows], rate, rng)
            if number >= settings.warmup and (index + 1) % settings.every == 0:
                self._learn_gates(rng)
        made = self._result(number + 1, total / steps)
        if not math.isfinite(made.loss + made.expected_ms):
            raise TechniqueError(
                f"the search came to a loss of {made.loss} in epoch {made.epoch}: a smaller "
                f"search.learning_rate than {settings.learning_rate:g} may help"
            )
        self.history.append(made)
        return made

    def found(self) -> FoundPath:
        chosen = self.net.take_likeliest()
        notes = []
        if self.history[-1].decided < 0.5:
            notes.append(
                f"the gates are undecided: the likeliest candidates have "
                f"{100 * self.history[-1].decided:.0f} % on average; more epochs, or a larger "
                f"search.alpha_rate than {self.settings.alpha_rate:g}, let them decide"
            )
        return FoundPath(
            self.space.spec(chosen), chosen, self.reference, tuple(self.history), tuple(notes)
        )

    def _learn_weights(
        self, images: Tensor, labels: Tensor, rate: float, rng: np.random.Generator
    ) -> float:
        for group in self.by_weights.param_groups:
            group["lr"] = rate
        self.net.draw(rng)
        loss = F.cross_entropy(self.net(images), labels)
        self.by_weights.zero_grad()  # to None: blocks that were not drawn stay as they are
        loss.backward()
        self.by_weights.step()
        return loss.item()

    def _learn_gates(self, rng: np.random.Generator) -> None:
        held, settings = self.images.held, self.settings
        rows = torch.from_numpy(rng.choice(len(held), min(settings.batch, len(held)), False))
        self.net.draw(rng, settings.rivals or max(len(place) for place in self.space.places))
        images = held[rows].to(memory_format=torch.channels_last)
        error = F.cross_entropy(self.net(images), self.images.held_labels[rows])
        loss = latency_loss(error, self.net.expected_ms(self.table), self.reference, settings)
        before = [alpha.detach().clone() for alpha in self.net.alphas()]
        self.by_gates.zero_grad()
        loss.backward()
        self.by_gates.step()
        for choice, old in zip(self.net.places(), before, strict=True):
            choice.keep_sum(old)

    def _result(self, number: int, loss: float) -> PathEpoch:
        chosen = self.net.take_likeliest()
        recalibrate(self.net, self.images.train)
        probabilities = tuple(
            tuple(float(p) for p in choice.probabilities().detach()) for choice in self.net.places()
        )
        return PathEpoch(
            number,
            self.settings.epochs,
            loss,
            accuracy(self.net, self.images.held, self.images.held_labels),
            self._expected(),
            self.table.predict(self.space.spec(chosen)),
            probabilities,
        )

    @torch.no_grad()
    def _expected(self) -> float:
        return float(self.net.expected_ms(self.table))

    def _check_logarithms(self) -> None:
        if self.settings.loss == "additive":
            return
        fastest = sum(
            min((self.table.block_ms(b, size) if b.kind != "skip" else 0.0) for b in place)
            for place, (_, size) in zip(self.space.places, self.space.sized()[1:], strict=True)
        )
        least = 1e3 * min(self.reference, self.table.start + self.table.scale * fastest)
        if least <= 1:
            raise ConfigError(
                f"search.loss: multiplicative takes the logarithm of microseconds, and the fastest "
                f"network, or the reference, takes {least:.2g}: use additive"
            )

    def save(self, path: Path) -> None:
        state = {
            "net": self.net.state_dict(),
            "by_weights": self.by_weights.state_dict(),
            "by_gates": self.by_gates.state_dict(),
            "history": self.history,
        }
        write_checkpoint(state, path)

    def load(self, path: Path) -> None:
        """Go on from a checkpoint; one that is damaged is as good as none."""
        state = read_checkpoint(path, PathEpoch)
        if state is None:
            return
        self.net.load_state_dict(state["net"])
        self.by_weights.load_state_dict(state["by_weights"])
        self.by_gates.load_state_dict(state["by_gates"])
        self.history = state["history"]


class _Weights(torch.nn.Module):
    """All parameters of a network but those of its gates, for the optimizer's groups."""

    def __init__(self, net: PathNet) -> None:
        super().__init__()
        self.held = torch.nn.ParameterList(net.weights())


def gate_rows(space: PathSpace, history: Sequence[PathEpoch]) -> list[dict[str, Any]]:
    """Return the probability of each candidate in each epoch, a row each, for tables."""
    return [
        {
            "epoch": epoch.epoch,
            "place": place,
            "candidate": block_label(block),
            "probability": p,
        }
        for epoch in history
        for place, (blocks, shares) in enumerate(
            zip(space.places, epoch.probabilities, strict=True), 1
        )
        for block, p in zip(blocks, shares, strict=True)
    ]
