"""Quantization-aware training; the result is quantized by the same tool as without training.

Jacob et al., "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only
Inference", 2018, section 3; Bengio, Léonard and Courville, 2013, for straight-through gradients.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from onnx import ModelProto
from torch import Tensor, nn

from mlflow_compress.errors import TechniqueError
from mlflow_compress.techniques.base import Context, Result
from mlflow_compress.techniques.graph.walk import float_weights
from mlflow_compress.techniques.quantize.onnx import quantize
from mlflow_compress.techniques.quantize.settings import QuantizeSettings
from mlflow_compress.techniques.training.interpreter import Interpreter
from mlflow_compress.techniques.training.lesson import Lesson, summary
from mlflow_compress.techniques.training.loop import Constraint

__all__ = ["FakeQuantization", "trained_quantize"]

_MOMENTUM = 0.05
"""How much of each batch's range goes into an activation's."""


def trained_quantize(model: ModelProto, settings: QuantizeSettings, context: Context) -> Result:
    """Train under fake quantization, then quantize weights and activations to 8 bits.

    Raises:
        ConfigError: ``exclude`` names a node that the model does not have.
        TechniqueError: the model cannot be trained, or not be quantized.
    """
    lesson = Lesson.of("quantize", model, settings, context)
    names = lesson.weights([weight.name for weight in float_weights(model)])
    excluded = {
        name for node in model.graph.node if node.name in settings.exclude for name in node.input
    }
    names = [n for n in names if n not in excluded and lesson.student.layer_of(n) is not None]
    if not names:
        raise TechniqueError("there is nothing to quantize that can be trained")
    constraint = FakeQuantization(
        lesson.student,
        names,
        per_channel=settings.per_channel,
        levels=63 if settings.reduce_range else 127,
    )
    epochs = lesson.teach(constraint)
    constraint.remove()
    made = quantize(lesson.student.write_back(), settings, replace(context, train=None))
    return Result(made.model, made.origin, (*summary(epochs), *made.notes))


class FakeQuantization(Constraint):
    """Computes with weights and activations rounded to 8 bits; gradients go straight through."""

    def __init__(
        self,
        student: Interpreter,
        names: list[str],
        *,
        per_channel: bool = True,
        levels: int = 127,
    ) -> None:
        """Set up for the layers that hold the named weights.

        Args:
            student: the model.
            names: weights of its layers.
            per_channel: a scale per output rather than per tensor.
            levels: a weight is one of -levels … levels times its scale.
        """
        trained = student.trained()
        self.weights = {name: trained[name] for name in names}
        self.per_channel, self.levels = per_channel, levels
        self.latent: dict[str, Tensor] = {}
        self.ranges: dict[str, tuple[Tensor, Tensor]] = {}
        self._hooks = []
        for name in names:
            layer = student.layer_of(name)
            assert layer is not None
            self._hooks.append(layer.register_forward_pre_hook(self._hook(name)))

    def before(self, progress: float) -> None:
        """Put rounded weights into the student."""
        with torch.no_grad():
            for name, weight in self.weights.items():
                if name not in self.latent:
                    self.latent[name] = weight.detach().clone()
                weight.copy_(self._rounded(self.latent[name]))

    def backward(self) -> None:
        """Put the weights back that the gradients are for."""
        with torch.no_grad():
            for name, weight in self.weights.items():
                weight.copy_(self.latent.pop(name))

    def state(self) -> Mapping[str, Any]:
        """Weights without rounding, and the ranges of the activations."""
        latent = {n: self.latent.get(n, weight.detach()) for n, weight in self.weights.items()}
        return {"latent": latent, "ranges": self.ranges}

    def load(self, state: Mapping[str, Any]) -> None:
        """Take them back."""
        self.ranges = state["ranges"]
        self.latent = dict(state["latent"])
        self.backward()

    def remove(self) -> None:
        """Take the hooks off the student."""
        for hook in self._hooks:
            hook.remove()

    def _rounded(self, weight: Tensor) -> Tensor:
        axes = tuple(range(1, weight.dim()))
        top = weight.abs().amax(axes, keepdim=True) if self.per_channel else weight.abs().max()
        scale = top.clamp_min(1e-12) / self.levels
        return (weight / scale).round().clamp(-self.levels, self.levels) * scale

    def _hook(self, name: str) -> Any:
        def round_input(layer: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            x = args[0]
            low, high = x.detach().min().clamp(max=0), x.detach().max().clamp(min=0)
            if name in self.ranges:
                before = self.ranges[name]
                low = before[0] + _MOMENTUM * (low - before[0])
                high = before[1] + _MOMENTUM * (high - before[1])
            if layer.training:
                self.ranges[name] = low, high
            elif name in self.ranges:
                low, high = self.ranges[name]
            scale = (high - low).clamp_min(1e-12) / 255
            zero = (-low / scale).round()
            rounded = ((x / scale + zero).round().clamp(0, 255) - zero) * scale
            return (x + (rounded - x).detach(), *args[1:])

        return round_input
