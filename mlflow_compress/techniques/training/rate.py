"""Training under a rate term: weights are pushed, and rounded, to values that are cheap to code.

Oktay et al., "Scalable Model Compression by Entropy Penalized Reparameterization", 2020 (arXiv
1906.06624), for a loss that adds lambda times the expected code length; Chou, Lookabaugh and Gray,
"Entropy-Constrained Vector Quantization", 1989, for values and assignment.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from mlflow_compress.techniques.training.interpreter import Interpreter
from mlflow_compress.techniques.training.loop import Constraint

__all__ = ["RateConstraint"]

_UNSEEN = 0.5
"""Values that no weight has count as half a weight, so that they stay reachable."""

_FLOOR = 0.3
"""Share of a weight's importance that is its tensor's mean: single gradients are noisy."""

_HALVINGS = 16
_START_ROUNDS = 12

_SETTLING = 16.0
"""How much faster the values learn once no weight changes its value any more.

By then the learning rate has fallen to a tenth and less, and the values have yet to find their
best places: the gradient of one is a sum over all weights that have it.
"""

_DORMANT = 0.1
"""How fast weights that are rounded to zero move, compared with the others."""


@dataclass
class _Shared:
    """One tensor: where its weights are, what they would like to be, what they may be.

    Attributes:
        weight: the student's parameter.
        places: flat indices of what is not zero from the start, [n].
        wish: what those weights would be without rounding, [n].
        book: the values they may take, [k], ascending, with a zero in it.
        index: which value each has, [n].
        squares: mean squared gradient of each, [n].
        zero: which of the values is zero.
    """

    weight: Tensor
    places: Tensor
    wish: nn.Parameter
    book: nn.Parameter
    index: Tensor
    squares: Tensor
    zero: int

    @property
    def outside(self) -> int:
        """How many weights are zero from the start."""
        return self.weight.numel() - len(self.places)

    def bits(self, index: Tensor) -> Tensor:
        """Return the ideal code length of each value, [k], zeros outside included."""
        counts = torch.bincount(index, minlength=len(self.book)).to(torch.float32)
        counts[self.zero] += self.outside
        counts += _UNSEEN
        return -torch.log2(counts / counts.sum())

    def spent(self, index: Tensor) -> float:
        """Return the entropy of all weights of the tensor, in bits."""
        counts = torch.bincount(index, minlength=len(self.book)).to(torch.float64)
        counts[self.zero] += self.outside
        counts = counts[counts > 0]
        return float(-(counts * torch.log2(counts / counts.sum())).sum())


class RateConstraint(Constraint):
    """Brings the weights' entropy down to ``bits`` per weight while they learn.

    Every few steps each weight takes the value with the least *importance x error² + price x
    bits*, where importance is half the empirical Fisher information; the price is the one at which
    the entropy is what is due by then. Between, gradients go straight through the rounding; the
    loss is charged price x expected code length, which between two values is taken to grow evenly
    (that of a random rounding to one of the two). In the last part the assignment stays and the
    values learn on.
    """

    every = 0.005
    settled_at = 0.8

    def __init__(
        self,
        student: Interpreter,
        names: Sequence[str],
        bits: float,
        *,
        values: int = 15,
        batch: int = 128,
        until: float = 0.6,
    ) -> None:
        """Set up.

        Args:
            student: the model; zeros in the tensors stay zeros.
            names: the tensors that are coded: weights first, biases too if they are to be.
            bits: entropy to reach, in bits per element of all these tensors.
            values: at most so many values per tensor, zero included.
            batch: rows per step, which gradients are means over.
            until: the progress at which the entropy is reached.
        """
        trained = student.trained()
        self.batch, self.until = batch, until
        self.tensors = {name: _start(trained[name], values) for name in names}
        self.total = sum(shared.weight.numel() for shared in self.tensors.values())
        self.goal = bits * self.total
        self.start = sum(shared.spent(shared.index) for shared in self.tensors.values())
        self.price, self.count, self.frozen = 0.0, 0, False
        self.last = 0.0
        self._wishes: dict[int, Tensor] = {}

    def groups(self, student: Interpreter) -> list[dict[str, Any]]:
        """The wishes and values in place of the weights, and all that is not coded."""
        coded = {id(shared.weight) for shared in self.tensors.values()}
        rest = [value for value in student.parameters() if id(value) not in coded]
        wishes = [shared.wish for shared in self.tensors.values()]
        books = [shared.book for shared in self.tensors.values()]
        return [
            {"params": rest + wishes, "scale": 1.0},
            {"params": books, "scale": 0.3, "settled": _SETTLING},
        ]

    def before(self, progress: float) -> None:
        """Assign values anew when it is time, and look the weights up."""
        self.frozen = progress >= self.settled_at
        if not self.frozen and self.count and progress >= self.last + self.every:
            self.last = progress
            due = 1 - (1 - min(1.0, progress / self.until)) ** 3
            self._assign(self.start + (self.goal - self.start) * due)
        with torch.no_grad():
            for shared in self.tensors.values():
                flat = torch.zeros(shared.weight.numel())
                flat[shared.places] = shared.book[shared.index]
                shared.weight.copy_(flat.reshape(shared.weight.shape))

    def backward(self) -> None:
        """Hand the gradients on: to the wishes with the rate's slope, to the values as a sum."""
        self.count += 1
        for shared in self.tensors.values():
            if shared.weight.grad is None:
                continue
            gradient = shared.weight.grad.reshape(-1)[shared.places]
            shared.squares.mul_(0.98).addcmul_(gradient, gradient, value=0.02)
            book = torch.zeros(len(shared.book)).index_add_(0, shared.index, gradient)
            book[shared.zero] = 0
            shared.book.grad = book
            if self.frozen:
                shared.wish.grad = None
                continue
            shared.wish.grad = gradient + self.price * self._slope(shared)
            self._wishes[id(shared)] = shared.wish.detach().clone()

    def after(self) -> None:
        """Slow down what is rounded to zero, and keep the values in order."""
        with torch.no_grad():
            for shared in self.tensors.values():
                before = self._wishes.pop(id(shared), None)
                if before is not None:
                    slowed = before + _DORMANT * (shared.wish - before)
                    shared.wish.copy_(torch.where(shared.index == shared.zero, slowed, shared.wish))
                # neighbours may meet but not pass: the slopes rest on the order
                book, zero = torch.cummax(shared.book, 0).values, shared.zero
                book[: zero + 1].clamp_(max=0)
                book[zero:].clamp_(min=0)
                shared.book.copy_(book)
                shared.book[zero] = 0

    def bits(self) -> float:
        """Return the entropy per element."""
        spent = sum(shared.spent(shared.index) for shared in self.tensors.values())
        return spent / self.total

    def state(self) -> Mapping[str, Any]:
        """Wishes, values, assignment."""
        return {
            "price": self.price,
            "count": self.count,
            "last": self.last,
            "tensors": {
                name: (s.wish.detach(), s.book.detach(), s.index, s.squares)
                for name, s in self.tensors.items()
            },
        }

    def load(self, state: Mapping[str, Any]) -> None:
        """Take them back."""
        self.price, self.count, self.last = state["price"], state["count"], state["last"]
        with torch.no_grad():
            for name, (wish, book, index, squares) in state["tensors"].items():
                shared = self.tensors[name]
                shared.wish.copy_(wish)
                shared.book.copy_(book)
                shared.index, shared.squares = index, squares

    def _slope(self, shared: _Shared) -> Tensor:
        """Return how the expected code length grows with each wish, in bits per unit."""
        book, bits = shared.book.detach(), shared.bits(shared.index)
        wish = shared.wish.detach()
        below = (torch.bucketize(wish, book) - 1).clamp(0, len(book) - 2)
        slopes = (bits[1:] - bits[:-1]) / (book[1:] - book[:-1]).clamp_min(1e-6)
        inside = (wish > book[0]) & (wish < book[-1])
        return torch.where(inside, slopes[below], torch.zeros(()))

    @torch.no_grad()
    def _assign(self, due: float) -> None:
        """Find the price at which the entropy is ``due`` bits in all, and assign by it."""
        low, high = -14.0, 0.0  # powers of ten; the cheaper a bit, the more are spent
        found: dict[str, Tensor] = {}
        errors = {name: self._errors(shared) for name, shared in self.tensors.items()}
        for _ in range(_HALVINGS):
            middle = (low + high) / 2
            found = {
                name: (errors[name] + 10**middle * shared.bits(shared.index)).argmin(1)
                for name, shared in self.tensors.items()
            }
            spent = sum(shared.spent(found[name]) for name, shared in self.tensors.items())
            low, high = (middle, high) if spent > due else (low, middle)
        self.price = float(10**high)
        for name, shared in self.tensors.items():
            shared.index = found[name]

    def _errors(self, shared: _Shared) -> Tensor:
        """Return what each value would add to the loss for each weight, [n, k]."""
        # the squared mean of a batch's gradients is the Fisher information / batch
        fisher = shared.squares * self.batch
        mean = fisher.mean() if len(fisher) else torch.ones(())
        importance = 0.5 * ((1 - _FLOOR) * fisher + _FLOOR * mean) + 1e-12
        return importance[:, None] * (shared.wish[:, None] - shared.book).square()


@torch.no_grad()
def _start(weight: Tensor, values: int) -> _Shared:
    """Cluster a tensor's weights that are not zero into at most ``values`` - 1 values."""
    flat = weight.detach().reshape(-1)
    places = flat.nonzero()[:, 0]
    wish = flat[places].clone()
    book = _clusters(wish, values - 1)
    index = (wish[:, None] - book).abs().argmin(1)
    zero = int((book == 0).nonzero()[0])
    squares = torch.zeros(len(wish))
    return _Shared(weight, places, nn.Parameter(wish), nn.Parameter(book), index, squares, zero)


def _clusters(wish: Tensor, count: int) -> Tensor:
    """Lloyd's algorithm from evenly spread starts; zero is put in. Ascending."""
    if not len(wish):
        return torch.tensor([0.0, 1e-3])
    low, high = torch.quantile(wish, torch.tensor([0.002, 0.998]))
    book = torch.linspace(float(low), float(high), min(count, len(wish)))
    for _ in range(_START_ROUNDS):
        index = (wish[:, None] - book).abs().argmin(1)
        sums = torch.zeros(len(book)).index_add_(0, index, wish)
        counts = torch.bincount(index, minlength=len(book))
        book = torch.where(counts > 0, sums / counts.clamp_min(1), book)
    book = book[book != 0]
    return torch.cat([book, torch.zeros(1)]).sort().values
