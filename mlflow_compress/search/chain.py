"""Applies a recipe step by step, so that what recipes have in common is computed once.

Step by step gives the same model as :func:`~mlflow_compress.techniques.apply_recipe` in one go: a
technique sees the model before it, its settings and the context, and nothing else.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import onnx

from mlflow_compress.records import Recipe, Step, digest_of, to_dict
from mlflow_compress.search.cache import Entry, StepCache
from mlflow_compress.techniques import (
    Context,
    RecipeResult,
    Result,
    apply_recipe,
    apply_step,
    registry,
    validate_recipe,
    with_reference,
)

__all__ = ["Applied", "apply_chain", "step_key"]


@dataclass(frozen=True)
class Applied:
    """A recipe's result, and how much of it was there before.

    Attributes:
        result: what :func:`~mlflow_compress.techniques.apply_recipe` returns.
        steps: how many steps the recipe has.
        reused: how many of them were found in the cache.
    """

    result: RecipeResult
    steps: int = 0
    reused: int = 0


def step_key(base: Mapping[str, Any], steps: tuple[Step, ...]) -> str:
    """Return the key of what some first steps make.

    Args:
        base: plain data of all that the steps' outcome depends on besides: source, data, seed,
            versions.
        steps: the steps in canonical form.
    """
    providers = {step.technique: registry.provider(step.technique) for step in steps}
    return digest_of(
        {"base": dict(base), "steps": [to_dict(s) for s in steps], "providers": providers}
    )


def apply_chain(
    source: onnx.ModelProto,
    recipe: Recipe,
    context: Context,
    cache: StepCache | None,
    base: Mapping[str, Any],
) -> Applied:
    """Apply a recipe to the source, beginning behind the longest chain of steps in the cache.

    Args:
        source: the source, normalised.
        recipe: what to apply.
        context: what techniques may use.
        cache: where chains are kept; None computes everything.
        base: see :func:`step_key`.

    Raises:
        CompressError: as :func:`~mlflow_compress.techniques.apply_recipe`.
    """
    recipe = validate_recipe(recipe)
    if cache is None:
        return Applied(apply_recipe(source, recipe, context), len(recipe.steps))
    context = replace(context, source=context.source or source)
    keys = [step_key(base, recipe.steps[: n + 1]) for n in range(len(recipe.steps))]
    done = _found(cache, keys)
    reused = len(done)
    for index in range(len(recipe.steps)):
        before = done[index - 1] if index else Entry(source)
        context = with_reference(context, recipe, index, before.model)
        if index >= reused:
            done.append(_next(before, apply_step(before.model, recipe, index, context)))
            cache.put(keys[index], done[index])
    last = done[-1] if done else Entry(source)
    # Without steps, for what the profile asks of the model.
    model = apply_recipe(last.model, Recipe((), recipe.profile), context).model
    held = {tensor.name for tensor in model.graph.initializer}
    names = [step.technique for step in recipe.steps]
    made = [entry.model for entry in done]
    result = RecipeResult(
        model,
        {new: old for new, old in last.origin.items() if new in held},
        (("source", source), *zip(names, made, strict=True)),
        tuple(
            f"{name}: {note}"
            for name, entry in zip(names, done, strict=True)
            for note in entry.notes
        ),
    )
    return Applied(result, len(recipe.steps), reused)


def _found(cache: StepCache, keys: list[str]) -> list[Entry]:
    """Return the entries of the first steps, as far as all of them are there."""
    found = []
    for key in keys:
        entry = cache.get(key)
        if entry is None:
            break
        found.append(entry)
    return found


def _next(before: Entry, result: Result) -> Entry:
    """Return the entry of what a step made of an entry's model."""
    moved = {new: before.origin.get(old, old) for new, old in result.origin.items()}
    return Entry(result.model, {**before.origin, **moved}, result.notes)
