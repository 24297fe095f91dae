"""What shapes weights during training: masks, shared values, a rate, fake quantization."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from mlflow_compress.techniques.training.interpreter import Interpreter
from mlflow_compress.techniques.training.loop import Constraint

__all__ = ["GradualPruning", "SharedValues", "keep_zeros"]


def keep_zeros(student: Interpreter, names: Sequence[str]) -> dict[str, Tensor]:
    """Return masks (1 is kept) of what is not zero now."""
    trained = student.trained()
    return {name: (trained[name] != 0).to(torch.float32) for name in names if name in trained}


class GradualPruning(Constraint):
    """Prunes a little more every few steps while the rest learns on.

    Zhu and Gupta, "To prune, or not to prune", 2017, section 3, for the cubic schedule. With the
    final sparsity None the masks stay as they are.
    """

    every = 0.005

    def __init__(
        self,
        masks: dict[str, Tensor],
        student: Interpreter,
        sparsity: float | None = None,
        *,
        scope: str = "global",
        method: str = "magnitude",
        until: float = 0.7,
    ) -> None:
        """Set up.

        Args:
            masks: what is kept at the start, by weight name.
            student: the model.
            sparsity: share of the weights in ``masks`` that is zero at the end.
            scope: ``global`` ranks all weights together, ``layer`` each tensor by itself.
            method: ``magnitude``, or ``obs``: weight² times the mean squared gradient, which
                estimates the loss without the weight (empirical Fisher information).
            until: the progress at which the final sparsity is reached.
        """
        trained = student.trained()
        self.weights = {name: trained[name] for name in masks}
        self.masks = masks
        self.scope, self.method, self.until = scope, method, until
        self.sparsity = sparsity
        self.settled_at = until if sparsity is not None else 0.0
        kept = sum(int(mask.sum()) for mask in masks.values())
        self.start = 1 - kept / max(1, sum(mask.numel() for mask in masks.values()))
        self.count, self.last = 0, 0.0
        self.squares = {name: torch.zeros_like(mask) for name, mask in masks.items()}

    def before(self, progress: float) -> None:
        """Raise the sparsity to what is due."""
        is_due = progress >= min(self.until, self.last + self.every)
        if self.sparsity is not None and is_due and self.last < self.until:
            self.last = progress
            due = 1 - (1 - min(1.0, progress / self.until)) ** 3
            self._prune(self.start + (self.sparsity - self.start) * due)
        self.after()

    def backward(self) -> None:
        """Keep what is pruned from moving."""
        self.count += 1
        for name, weight in self.weights.items():
            if weight.grad is not None:
                weight.grad *= self.masks[name]
                if self.method == "obs":
                    self.squares[name].mul_(0.98).addcmul_(weight.grad, weight.grad, value=0.02)

    def after(self) -> None:
        """Set what is pruned to zero."""
        with torch.no_grad():
            for name, weight in self.weights.items():
                weight.mul_(self.masks[name])

    def state(self) -> Mapping[str, Any]:
        """Masks and mean squared gradients."""
        return {
            "masks": self.masks,
            "count": self.count,
            "last": self.last,
            "squares": self.squares,
        }

    def load(self, state: Mapping[str, Any]) -> None:
        """Take them back."""
        self.masks, self.count, self.last = state["masks"], state["count"], state["last"]
        self.squares = state["squares"]

    def _prune(self, sparsity: float) -> None:
        scores = [self._score(name) for name in self.weights]
        groups = [[score] for score in scores] if self.scope == "layer" else [scores]
        kept: list[Tensor] = []
        for group in groups:
            flat = torch.cat([score.reshape(-1) for score in group])
            drop = round(sparsity * len(flat))
            keep = torch.ones(len(flat))
            keep[torch.argsort(flat, stable=True)[:drop]] = 0
            kept += list(keep.split([score.numel() for score in group]))
        for name, part in zip(self.weights, kept, strict=True):
            self.masks[name] = part.reshape(self.masks[name].shape) * self.masks[name]

    def _score(self, name: str) -> Tensor:
        weight = self.weights[name].detach()
        score = weight.abs()
        if self.method == "obs" and self.count:
            squares = self.squares[name]
            score = weight.square() * (squares + 0.1 * squares.sum() / self.masks[name].sum())
        # what is pruned stays pruned: below everything that is kept
        return torch.where(self.masks[name] > 0, score, torch.full_like(score, -1.0))


class SharedValues(Constraint):
    """Trains the few values that a tensor's weights share; which weight has which stays.

    Han et al., "Deep Compression", 2016, section 3.3: a value's gradient is the sum over the
    weights that have it. Zeros stay zeros.
    """

    def __init__(self, student: Interpreter, names: Sequence[str]) -> None:
        """Set up for tensors that hold few different values already."""
        trained = student.trained()
        self.weights = {name: trained[name] for name in names}
        self.codebooks: dict[str, nn.Parameter] = {}
        self.indices: dict[str, Tensor] = {}
        for name, weight in self.weights.items():
            values, index = torch.unique(weight.detach(), return_inverse=True)
            self.codebooks[name] = nn.Parameter(values)
            self.indices[name] = index.reshape(-1)
        self.fixed = {name: book.detach() == 0 for name, book in self.codebooks.items()}

    def groups(self, student: Interpreter) -> list[dict[str, Any]]:
        """The values in place of the weights, and all that is not shared."""
        shared = {id(weight) for weight in self.weights.values()}
        rest = [value for value in student.parameters() if id(value) not in shared]
        books = list(self.codebooks.values())
        return [{"params": rest, "scale": 1.0}, {"params": books, "scale": 1.0}]

    def before(self, progress: float) -> None:
        """Look the weights up."""
        with torch.no_grad():
            for name, weight in self.weights.items():
                weight.copy_(self.codebooks[name][self.indices[name]].reshape(weight.shape))

    def backward(self) -> None:
        """Sum the gradients of the weights that share a value."""
        for name, weight in self.weights.items():
            book = self.codebooks[name]
            if weight.grad is not None:
                total = torch.zeros_like(book.detach())
                total.index_add_(0, self.indices[name], weight.grad.reshape(-1))
                book.grad = total.masked_fill_(self.fixed[name], 0)

    def state(self) -> Mapping[str, Any]:
        """The codebooks' values."""
        return {name: book.detach() for name, book in self.codebooks.items()}

    def load(self, state: Mapping[str, Any]) -> None:
        """Take them back."""
        with torch.no_grad():
            for name, values in state.items():
                self.codebooks[name].copy_(values)
