"""What each layer costs and bears, and how to share a byte budget out among layers.

``sensitivity`` compresses one layer at a time. ``allocate`` takes these effects as if they added
up and finds what each layer gets by Lagrangian rate-distortion: for a price of a byte, each layer
takes the level with the least loss plus price times bytes, and the price is what makes the sum fit
(Shoham and Gersho, "Efficient bit allocation for an arbitrary set of quantizers", 1988). The rate
is what the layer takes once it is entropy-coded, not its number of bits.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from onnx import ModelProto, numpy_helper

from mlflow_compress import measure
from mlflow_compress.errors import ConfigError
from mlflow_compress.records import Recipe, Step
from mlflow_compress.rows import Array
from mlflow_compress.search.space import layers_text
from mlflow_compress.techniques import Context, apply_recipe, validate_recipe
from mlflow_compress.techniques.onnx_graph import float_weights

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
        agreement: share of rows with the source's top-1 class, 0 to 1; NaN without classes.
        kl: mean KL divergence of the outputs from the source's, nats; NaN without classes.
        accuracy: the metric's value, NaN without labels.
    """

    layer: str
    technique: str
    level: float
    bytes: int
    agreement: float
    kl: float
    accuracy: float


def sensitivity(
    source: ModelProto,
    evaluation: measure.Dataset,
    context: Context,
    levels: Mapping[str, Sequence[float]] = LEVELS,
    *,
    metric: str = "accuracy",
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
        by_layer: the levels of each layer, in place of ``levels``; others are left out.
        options: further settings by technique, such as ``method=rtn``.

    Returns:
        The effects layer by layer in the order in which they are stored, each beginning with the
        layer as it is.

    Raises:
        TechniqueError: a technique cannot be applied to a layer.
    """
    reference = measure.run(measure.open_session(source), evaluation)
    effects: list[Effect] = []
    for weight in float_weights(source, min_size=_SMALLEST):
        if by_layer is not None and weight.name not in by_layer:
            continue
        effects.append(_effect(source, weight.name, "", 0, source, reference, evaluation, metric))
        for technique, tried in (levels if by_layer is None else by_layer[weight.name]).items():
            for level in tried:
                told = {"layers": f"{weight.name}={level:.12g}"}
                if options.get(technique):
                    told["options"] = options[technique]
                step = Step(f"{technique}_layers", told)
                made = apply_recipe(source, Recipe((step,)), context)
                origin = {new for new, old in made.origin.items() if old == weight.name}
                effects.append(
                    _effect(
                        made.model, weight.name, technique, level, source, reference,
                        evaluation, metric, origin,
                    )
                )  # fmt: skip
    return tuple(effects)


def _effect(
    model: ModelProto,
    layer: str,
    technique: str,
    level: float,
    source: ModelProto,
    reference: Mapping[str, Array],
    evaluation: measure.Dataset,
    metric: str,
    parts: set[str] = frozenset(),  # type: ignore[assignment]
) -> Effect:
    outputs = reference
    if model is not source:
        outputs = measure.run(measure.open_session(model), evaluation)
    fidelity = measure.measure_fidelity(outputs, reference, evaluation)
    accuracy = float("nan")
    if evaluation.labels is not None:
        accuracy = measure.score(outputs, evaluation, metric)
    stored = [t for t in model.graph.initializer if t.name in parts or t.name == layer]
    return Effect(
        layer,
        technique,
        level,
        sum(_coded_bytes(numpy_helper.to_array(tensor)) for tensor in stored),
        float("nan") if fidelity is None else fidelity.agreement,
        float("nan") if fidelity is None else fidelity.kl,
        accuracy,
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
        }
        for effect in effects
    ]


def allocate(effects: Sequence[Effect], budget: int) -> Recipe:
    """Return the recipe that shares ``budget`` bytes out among the layers with the least loss.

    The loss of a layer is the KL divergence that it makes alone; KLs of layers are taken to add up.

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
    if not choices or any(effect.kl != effect.kl for effect in effects):
        raise ConfigError("allocate: the model has no layers or no classes to compare")
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
        layer: min(options, key=lambda one: (one.kl + price * one.bytes, one.bytes))
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
            ((chosen[one.layer].kl - one.kl) / max(one.bytes - chosen[one.layer].bytes, 1), one)
            for options in choices.values()
            for one in options
            if one.kl < chosen[one.layer].kl and one.bytes - chosen[one.layer].bytes <= left
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
