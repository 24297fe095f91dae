"""What each layer costs and bears, and how to share a byte budget out among layers.

``sensitivity`` compresses one layer at a time. ``allocate`` takes these effects as if they added
up and finds what each layer gets by Lagrangian rate-distortion: for a price of a byte, each layer
takes the level with the least loss plus price times bytes, and the price is what makes the sum fit
(Shoham and Gersho, "Efficient bit allocation for an arbitrary set of quantizers", 1988). The rate
is what the layer takes once it is entropy-coded, not its number of bits.
"""

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from onnx import ModelProto, numpy_helper

from mlflow_compress import measure
from mlflow_compress.errors import ConfigError
from mlflow_compress.measure.outputs import Evidence
from mlflow_compress.records import Fidelity, Output, Recipe, Step
from mlflow_compress.rows import Array
from mlflow_compress.search.screen import LEVEL
from mlflow_compress.search.space import layers_text
from mlflow_compress.techniques import Context, apply_recipe, validate_recipe
from mlflow_compress.techniques.graph.walk import float_weights

__all__ = ["LEVELS", "Effect", "allocate", "allocation", "sensitivity", "sensitivity_rows"]

LEVELS: Mapping[str, tuple[float, ...]] = {
    "prune": (0.5, 0.7, 0.85, 0.95),
    "share": (4, 8, 16, 32),
}
"""What is tried on each layer by default: sparsities, and numbers of clusters."""

_SMALLEST = 64
"""Layers with fewer weights are left alone: they are no bytes."""


@dataclass(frozen=True)
class Effect:
    """What one technique at one level does to one layer, all others as in the source.

    Attributes:
        layer: the weight's name.
        technique: ``prune``, ``share`` or ``weight_only``; empty for the layer as it is.
        level: its sparsity, clusters or bits.
        bytes: what the layer takes, entropy-coded, with the table of its values.
        agreement: least share of rows with the source's class, 0 to 1; NaN without classes.
        kl: largest mean KL divergence of an output from the source's, nats; NaN without classes.
        accuracy: the metric's value, NaN without labels.
        error: largest normalised error of an output of numbers; NaN without one.
        fidelity: closeness of each output by its kind, with intervals at :data:`LEVEL`.
    """

    layer: str
    technique: str
    level: float
    bytes: int
    agreement: float
    kl: float
    accuracy: float
    error: float = math.nan
    fidelity: Fidelity | None = None

    @property
    def loss(self) -> float:
        """What a layer costs: its KL divergence, or its error where there are no classes."""
        return self.error if math.isnan(self.kl) else self.kl


def sensitivity(
    source: ModelProto,
    evaluation: measure.Dataset,
    context: Context,
    levels: Mapping[str, Sequence[float]] = LEVELS,
    *,
    metric: str | measure.MetricSpec = "accuracy",
    outputs: Sequence[Output] | None = None,
    by_layer: Mapping[str, Mapping[str, Sequence[float]]] | None = None,
    options: Mapping[str, str] = {},
) -> tuple[Effect, ...]:
    """Compress one layer at a time with each technique at each level, and score the model.

    Args:
        source: the source, normalised.
        evaluation: rows to score on; keep those that variants are compared on out of it when the
            result decides what is tried.
        context: what techniques may use.
        levels: levels by technique: ``prune``, ``share`` or ``weight_only``.
        metric: the accuracy metric, where there are labels.
        outputs: what the source's outputs are; told by what it gives for these rows when None.
        by_layer: the levels of each layer, in place of ``levels``; others are left out.
        options: further settings by technique, such as ``method=rtn``.

    Returns:
        The effects layer by layer in the order in which they are stored, each beginning with the
        layer as it is.

    Raises:
        TechniqueError: a technique cannot be applied to a layer.
    """
    reference = measure.run(measure.open_session(source), evaluation)
    if outputs is None:
        outputs = measure.tell_outputs(Evidence(source, reference, evaluation.labels))
    judge = _Judge(source, reference, evaluation, metric, tuple(outputs))
    effects: list[Effect] = []
    for weight in float_weights(source, min_size=_SMALLEST):
        if by_layer is not None and weight.name not in by_layer:
            continue
        effects.append(_effect(judge, source, weight.name, "", 0))
        for technique, tried in (levels if by_layer is None else by_layer[weight.name]).items():
            for level in tried:
                told = {"layers": f"{weight.name}={level:.12g}"}
                if options.get(technique):
                    told["options"] = options[technique]
                step = Step(f"{technique}_layers", told)
                made = apply_recipe(source, Recipe((step,)), context)
                origin = {new for new, old in made.origin.items() if old == weight.name}
                effects.append(_effect(judge, made.model, weight.name, technique, level, origin))
    return tuple(effects)


class _Judge(NamedTuple):
    """What a model is compared with, and on what."""

    source: ModelProto
    reference: Mapping[str, Array]
    evaluation: measure.Dataset
    metric: str | measure.MetricSpec
    outputs: tuple[Output, ...]


def _effect(
    judge: _Judge,
    model: ModelProto,
    layer: str,
    technique: str,
    level: float,
    parts: Set[str] = frozenset(),
) -> Effect:
    outputs, evaluation = judge.reference, judge.evaluation
    if model is not judge.source:
        outputs = measure.run(measure.open_session(model), evaluation)
    fidelity = measure.measure_fidelity(
        outputs, judge.reference, evaluation, judge.outputs, level=LEVEL
    )
    accuracy = math.nan
    if evaluation.has_labels or measure.MetricSpec.of(judge.metric).labels == "source":
        accuracy = measure.score(outputs, evaluation, judge.metric, judge.reference)
    errors = [one.measures["error"] for one in fidelity.outputs if "error" in one.measures]
    stored = [t for t in model.graph.initializer if t.name in parts or t.name == layer]
    return Effect(
        layer,
        technique,
        level,
        sum(_coded_bytes(numpy_helper.to_array(tensor)) for tensor in stored),
        math.nan if fidelity.agreement is None else fidelity.agreement,
        math.nan if fidelity.kl is None else fidelity.kl,
        accuracy,
        max(errors, default=math.nan),
        fidelity,
    )


def _coded_bytes(values: np.ndarray) -> int:
    """Return the bytes of an array coded at its entropy, with its table, or as it is if less."""
    distinct = np.unique(values).size
    coded = values.size * measure.entropy(values) / 8 + distinct * values.itemsize
    return int(np.ceil(min(coded, values.nbytes)))


def sensitivity_rows(effects: Sequence[Effect]) -> list[dict[str, object]]:
    """Return one row per effect for a table; None where something was not measured."""
    return [
        {
            key: None if isinstance(value, float) and value != value else value
            for key, value in vars(effect).items()
            if key != "fidelity"
        }
        for effect in effects
    ]


def allocate(effects: Sequence[Effect], budget: int) -> Recipe:
    """Return the recipe that shares ``budget`` bytes out among the layers with the least loss.

    The loss of a layer is the KL divergence that it makes alone, or the error where the model has
    no classes; losses of layers are taken to add up.

    Args:
        effects: from :func:`sensitivity`, with the layers as they are.
        budget: bytes that the layers' weights may take together; what the graph and small tensors
            take comes on top.

    Raises:
        ConfigError: even the smallest levels take more, or there are no outputs to compare.
    """
    return _recipe(allocation(effects, budget))


def allocation(effects: Sequence[Effect], budget: int) -> dict[str, Effect]:
    """Return what each layer gets; see :func:`allocate`."""
    choices: dict[str, list[Effect]] = defaultdict(list)
    for effect in effects:
        choices[effect.layer].append(effect)
    if not choices or any(math.isnan(effect.loss) for effect in effects):
        raise ConfigError("allocate: the model has no layers, or no outputs to compare")
    least = sum(min(effect.bytes for effect in layer) for layer in choices.values())
    if least > budget:
        raise ConfigError(
            f"allocate: a budget of {budget} bytes is too small: the smallest levels take {least}"
        )
    cheap, dear = 0.0, 1.0
    while _bytes(_at_price(choices, dear)) > budget:
        dear *= 10
    for _ in range(100):
        price = (cheap + dear) / 2
        if _bytes(_at_price(choices, price)) > budget:
            cheap = price
        else:
            dear = price
    chosen = _at_price(choices, dear)
    return _spend_rest(choices, chosen, budget)


def _at_price(choices: Mapping[str, Sequence[Effect]], price: float) -> dict[str, Effect]:
    return {
        layer: min(options, key=lambda one: (one.loss + price * one.bytes, one.bytes))
        for layer, options in choices.items()
    }


def _spend_rest(
    choices: Mapping[str, Sequence[Effect]], chosen: dict[str, Effect], budget: int
) -> dict[str, Effect]:
    """Spend what is left where it helps most: prices only reach levels on the convex hull."""
    chosen = dict(chosen)
    while True:
        left = budget - _bytes(chosen)
        gains = [
            ((chosen[one.layer].loss - one.loss) / max(one.bytes - chosen[one.layer].bytes, 1), one)
            for options in choices.values()
            for one in options
            if one.loss < chosen[one.layer].loss and one.bytes - chosen[one.layer].bytes <= left
        ]
        if not gains:
            return chosen
        _, best = max(gains, key=lambda pair: pair[0])
        chosen[best.layer] = best


def _bytes(chosen: Mapping[str, Effect]) -> int:
    return sum(effect.bytes for effect in chosen.values())


def _recipe(chosen: Mapping[str, Effect]) -> Recipe:
    """Return the recipe of one level per layer; techniques follow in the order they must have."""
    steps = []
    for technique in ("prune", "share", "weight_only"):
        levels = {
            effect.layer: int(effect.level) if float(effect.level).is_integer() else effect.level
            for effect in chosen.values()
            if effect.technique == technique
        }
        if levels:
            steps.append(Step(f"{technique}_layers", {"layers": layers_text(levels)}))
    return validate_recipe(Recipe(tuple(steps)))
