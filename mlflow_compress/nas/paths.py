"""Networks with several candidate blocks at each place, of which one runs at a time.

ProxylessNAS (Cai, Zhu and Han, arXiv 1812.00332). Each place has one parameter α per candidate;
``p = softmax(α)`` are the probabilities with which a binary gate opens for one of them (section
3.1). Only the candidate whose gate is open is in memory; what the others would have given is
computed one by one while the gradient goes back (section 3.2).
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mlflow_compress.nas.blocks import Block, resize
from mlflow_compress.nas.latency import LatencyTable
from mlflow_compress.nas.path_space import PathSpace
from mlflow_compress.nas.specs import BlockSpec

__all__ = ["Choice", "PathNet"]


class Choice(nn.Module):
    """A place of the network with several candidates.

    Attributes:
        alpha: one parameter per candidate, zeros at first.
        active: the candidate whose gate is open.
        rivals: the candidates whose gates are learned in this step; empty while weights are.
    """

    def __init__(self, candidates: Sequence[BlockSpec]) -> None:
        super().__init__()
        self.candidates = nn.ModuleList(Block(spec) for spec in candidates)
        self.alpha = nn.Parameter(torch.zeros(len(candidates)))
        self.active = 0
        self.rivals: tuple[int, ...] = ()

    def probabilities(self) -> Tensor:
        """Return p of each candidate; only those of the rivals pass a gradient on."""
        if not self.rivals:
            return F.softmax(self.alpha, 0)
        free = torch.zeros(len(self.alpha), dtype=torch.bool)
        free[list(self.rivals)] = True
        return F.softmax(torch.where(free, self.alpha, self.alpha.detach()), 0)

    def draw(self, rng: np.random.Generator, rivals: int = 0) -> None:
        """Open the gate of one candidate, drawn by its probability.

        Args:
            rng: draws.
            rivals: of so many candidates, drawn first and compared with each other alone, the
                gates are learned in this step (section 3.2.1: two); 0 learns none.
        """
        p = _shares(self.alpha)
        self.rivals = ()
        if rivals:
            count = min(rivals, len(p))
            drawn = np.sort(rng.choice(len(p), count, replace=False, p=p))
            self.rivals = tuple(int(index) for index in drawn)
            p = _shares(self.alpha[list(self.rivals)])
        index = int(rng.choice(len(p), p=p))
        self.active = self.rivals[index] if rivals else index

    def forward(self, x: Tensor) -> Tensor:
        """Map [batch, inputs, height, width] by the active candidate."""
        if not self.rivals:
            made: Tensor = self.candidates[self.active](x)
            return made
        p = F.softmax(self.alpha[list(self.rivals)], 0)
        opened = torch.zeros(len(self.rivals))
        opened[self.rivals.index(self.active)] = 1
        # the values of the binary gates with the gradient of p, so that autograd gives
        # dL/dα_i = Σ_j dL/dg_j p_j (δ_ij - p_i), equation 4
        gates = opened + p - p.detach()
        gated: Tensor = _Gated.apply(x, gates, self)
        return gated

    @torch.no_grad()
    def keep_sum(self, before: Tensor) -> None:
        """Rescale the rivals' parameters after a step so that the others keep their p.

        Args:
            before: what :attr:`alpha` was before the step.
        """
        index = list(self.rivals)
        if index:
            more = self.alpha[index].logsumexp(0) - before[index].logsumexp(0)
            self.alpha[index] -= more


class _Gated(torch.autograd.Function):
    """Runs the active candidate; gives each rival's gate the gradient of its output's share."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, _gates: Tensor, choice: Choice) -> Tensor:
        with torch.enable_grad():
            inside = x.detach().requires_grad_()
            made = choice.candidates[choice.active](inside)
        ctx.inside, ctx.made, ctx.choice = inside, made, choice
        return made.detach()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None]:
        (grad,) = grads
        choice: Choice = ctx.choice
        (through,) = torch.autograd.grad(ctx.made, ctx.inside, grad)
        # the output is Σ_j g_j o_j, so dL/dg_j is the product of dL/doutput with o_j
        of_gates = []
        for index in choice.rivals:
            made = ctx.made
            if index != choice.active:
                with torch.no_grad():
                    made = choice.candidates[index](ctx.inside)
            of_gates.append((grad * made).sum())
        ctx.inside = ctx.made = None
        return through, torch.stack(of_gates), None


class PathNet(nn.Module):
    """The network of a space, with all its candidates."""

    def __init__(self, space: PathSpace) -> None:
        super().__init__()
        self.space = space
        self.stem = Block(space.stem)
        self.choices = nn.ModuleList(Choice(place) for place in space.places)
        self.classifier = nn.Linear(space.places[-1][0].outputs, space.classes)

    def places(self) -> list[Choice]:
        """Return the places in order."""
        return [choice for choice in self.choices if isinstance(choice, Choice)]

    def draw(self, rng: np.random.Generator, rivals: int = 0) -> None:
        """Draw one path; see :meth:`Choice.draw`."""
        for choice in self.places():
            choice.draw(rng, rivals)

    def take_likeliest(self) -> tuple[int, ...]:
        """Open the gate of the likeliest candidate at each place, and return which they are."""
        for choice in self.places():
            choice.active, choice.rivals = int(choice.alpha.argmax()), ()
        return tuple(choice.active for choice in self.places())

    def forward(self, x: Tensor) -> Tensor:
        """Map [batch, channels, size, size] to logits of [batch, classes], by the drawn path."""
        x = self.stem(resize(x, self.space.resolution))
        for choice in self.choices:
            x = choice(x)
        made: Tensor = self.classifier(x.mean((2, 3)))
        return made

    def expected_ms(self, table: LatencyTable) -> Tensor:
        """Return the latency that a drawn path has on average, in milliseconds (equation 5).

        A skip is no block of the finished network, so it costs nothing at all.
        """
        sized = self.space.sized()
        fixed, height = sized[0]
        made = torch.tensor(table.start + table.scale * table.block_ms(fixed, height) + table.each)
        for choice, (_, height) in zip(self.places(), sized[1:], strict=True):
            specs = [block.spec for block in choice.candidates if isinstance(block, Block)]
            costs = torch.tensor(
                [
                    0.0
                    if spec.kind == "skip"
                    else table.scale * table.block_ms(spec, height) + table.each
                    for spec in specs
                ]
            )
            made = made + (choice.probabilities() * costs).sum()
        return made

    def alphas(self) -> list[nn.Parameter]:
        """Return the parameters of the gates."""
        return [choice.alpha for choice in self.places()]

    def weights(self) -> list[nn.Parameter]:
        """Return all other parameters."""
        gates = {id(alpha) for alpha in self.alphas()}
        return [value for value in self.parameters() if id(value) not in gates]


def _shares(alpha: Tensor) -> np.ndarray:
    p: np.ndarray = F.softmax(alpha.detach().double(), 0).numpy()
    return p / p.sum()
