"""Validates a recipe, and runs its steps in order on one model."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from mlflow_compress.errors import CompressError, TechniqueError, named
from mlflow_compress.records import Recipe, Step
from mlflow_compress.techniques import registry
from mlflow_compress.techniques.base import (
    Context,
    OrderError,
    Phase,
    Result,
    Technique,
    parse_settings,
    plain_settings,
)

if TYPE_CHECKING:
    import onnx

__all__ = [
    "RecipeResult",
    "apply_recipe",
    "apply_step",
    "needed_modules",
    "needs_calibration",
    "needs_training",
    "training_steps",
    "uses_calibration",
    "validate_recipe",
    "with_reference",
]

_ONCE = (Phase.SHARE, Phase.QUANTIZE)
"""Phases in which a second technique would undo the first."""

_CALIBRATION_ROWS = 2048
"""So many training rows serve as calibration rows where there are none."""


@dataclass(frozen=True)
class RecipeResult:
    """What a recipe made of a model.

    Attributes:
        model: the model after the last step, not packed yet.
        origin: source initializer of each initializer that the source does not have.
        stages: the model before the first step (``source``) and after each step (the
            technique's name), in order.
        notes: what the techniques had to say, each with the step's name in front.
    """

    model: "onnx.ModelProto"
    origin: Mapping[str, str]
    stages: tuple[tuple[str, "onnx.ModelProto"], ...]
    notes: tuple[str, ...] = ()


def validate_recipe(recipe: Recipe) -> Recipe:
    """Return the recipe in canonical form: equal recipes have equal digests.

    Raises:
        ConfigError: an unknown technique or setting, or a value that is not allowed.
        OrderError: the steps are in an order that makes no sense.
    """
    steps = []
    for step in recipe.steps:
        settings = parse_settings(registry.get(step.technique), step.settings)
        steps.append(Step(step.technique, plain_settings(settings)))
    _check_order(recipe)
    return replace(recipe, steps=tuple(steps))


def needs_calibration(recipe: Recipe) -> bool:
    """Whether any step of the recipe refuses to work without calibration inputs."""
    return any(technique.needs_calibration(settings) for technique, settings in _steps(recipe))


def needs_training(recipe: Recipe) -> bool:
    """Whether any step of the recipe refuses to work without training data."""
    return any(technique.needs_training(settings) for technique, settings in _steps(recipe))


def uses_calibration(recipe: Recipe) -> bool:
    """Whether any step of the recipe looks at calibration inputs where there are some."""
    return any(technique.uses_calibration(settings) for technique, settings in _steps(recipe))


def training_steps(recipe: Recipe) -> list[str]:
    """Return the names of the steps that train where there are rows to train on."""
    return [technique.name for technique, settings in _steps(recipe) if technique.trains(settings)]


def needed_modules(recipe: Recipe, *, trains: bool) -> Iterator[tuple[str, Mapping[str, str]]]:
    """Yield each step's name with the modules that it needs, and what pip installs them by.

    Args:
        recipe: the steps.
        trains: whether there are rows to train on.
    """
    for technique, settings in _steps(recipe):
        is_training = trains and technique.trains(settings)
        yield technique.name, technique.needs_modules(settings, trains=is_training)


def _steps(recipe: Recipe) -> Iterator[tuple[Technique[Any], Any]]:
    for step in recipe.steps:
        technique = registry.get(step.technique)
        yield technique, parse_settings(technique, step.settings)


def apply_recipe(model: "onnx.ModelProto", recipe: Recipe, context: Context) -> RecipeResult:
    """Run the steps on a normalised model (see :func:`normalize`); the model is not changed.

    Raises:
        ConfigError: as :func:`validate_recipe`.
        TechniqueError: a step refuses or makes an invalid model; the message names the step
            and the steps before it. Or the portable profile needs a later opset, and onnx cannot
            convert the model.
    """
    recipe = validate_recipe(recipe)
    if context.source is None:
        context = replace(context, source=model)
    origin: dict[str, str] = {}
    stages = [("source", model)]
    notes: list[str] = []
    for index, step in enumerate(recipe.steps):
        context = with_reference(context, recipe, index, model)
        result = apply_step(model, recipe, index, context)
        origin |= {new: origin.get(old, old) for new, old in result.origin.items()}
        model = result.model
        stages.append((step.technique, model))
        notes += [f"{step.technique}: {note}" for note in result.notes]
    if recipe.profile == "portable":
        from mlflow_compress.packed.portable.write import MIN_OPSET
        from mlflow_compress.techniques.graph.opset import raise_opset

        model = raise_opset(model, MIN_OPSET, context.calibration, seed=context.seed)
    held = {tensor.name for tensor in model.graph.initializer}
    origin = {new: old for new, old in origin.items() if new in held}
    return RecipeResult(model, origin, tuple(stages), tuple(notes))


def with_reference(
    context: Context, recipe: Recipe, index: int, model: "onnx.ModelProto"
) -> Context:
    """Return the context for a step; the first lossy step's model is the reference.

    From there on values keep their names, so that they can be compared.
    """
    lossy = registry.get(recipe.steps[index].technique).phase > Phase.FOLD
    if context.reference is None and lossy:
        return replace(context, reference=model)
    return context


def apply_step(model: "onnx.ModelProto", recipe: Recipe, index: int, context: Context) -> Result:
    """Run one step of a recipe on what the steps before it made; the model is not changed.

    Raises:
        CompressError: as :func:`apply_recipe`.
    """
    if context.calibration is None and context.train is not None:
        context = replace(context, calibration=context.train.head(_CALIBRATION_ROWS))
    try:
        return _checked(model, recipe.steps[index], context)
    except CompressError as error:
        raise type(error)(f"{_where(recipe, index)}: {error}") from error


def _checked(model: "onnx.ModelProto", step: Step, context: Context) -> Result:
    from mlflow_compress.techniques.graph.check import refuse_new_problem
    from mlflow_compress.techniques.graph.defaults import give_back, take_away
    from mlflow_compress.techniques.graph.running import told_change
    from mlflow_compress.techniques.graph.walk import refuse_broken_weights

    technique: Any = registry.get(step.technique)
    settings = parse_settings(technique, step.settings)
    if technique.needs_calibration(settings) and not context.calibration:
        if not model.graph.input:
            raise TechniqueError("the model takes no inputs to calibrate it on: fold computes it")
        raise TechniqueError("needs calibration inputs, and there are none (data.calibration)")
    if technique.needs_training(settings) and context.train is None:
        raise TechniqueError("needs training data, and there are none (data.train)")
    if technique.phase > Phase.FOLD:
        refuse_broken_weights(model)
    given = model
    model, context, defaults = take_away(model, context)
    try:
        result: Result = technique.apply(model, settings, context)
        if technique.phase > Phase.FOLD and context.calibration:
            note = told_change(context.reference or model, result.model, context.calibration)
            result = replace(result, notes=(*result.notes, *filter(None, [note])))
    except (CompressError, MemoryError):
        raise
    except Exception as error:
        raise TechniqueError(f"fails on this model: {named(error)}") from error
    result = replace(result, model=give_back(result.model, defaults))
    refuse_new_problem(given, result.model, "made a model that is not valid ONNX")
    return result


def _check_order(recipe: Recipe) -> None:
    lossy = False
    for index, step in enumerate(recipe.steps):
        phase = registry.get(step.technique).phase
        if phase == Phase.REPAIR:
            if not lossy:
                raise OrderError(f"{step.technique} cannot come first: nothing is lost before it")
            previous = recipe.steps[index - 1].technique
            if previous == step.technique:
                raise OrderError(f"{step.technique} cannot come twice in a row")
            if registry.get(previous).phase == Phase.TRIM:
                raise OrderError(
                    f"{step.technique} cannot come after {previous}, which renames what it "
                    f"compares: put {step.technique} first"
                )
        lossy = lossy or phase > Phase.FOLD
    ordered = [s for s in recipe.steps if registry.get(s.technique).phase != Phase.REPAIR]
    for earlier, later in pairwise(ordered):
        before, after = registry.get(earlier.technique).phase, registry.get(later.technique).phase
        if after < before:
            raise OrderError(
                f"{later.technique} cannot come after {earlier.technique}: "
                f"put {later.technique} first"
            )
        if before == after and after in _ONCE:
            raise OrderError(
                f"{later.technique} cannot come after {earlier.technique}: "
                f"it would undo it, use one of the two"
            )


def _where(recipe: Recipe, index: int) -> str:
    """Name a step and what came before it: ``step 2 'share' (after prune)``."""
    before = " · ".join(step.technique for step in recipe.steps[:index])
    name = recipe.steps[index].technique
    return f"step {index + 1} {name!r}" + (f" (after {before})" if before else "")
