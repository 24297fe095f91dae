"""The space of recipes: recipes whose settings may have ranges, and the points in it.

A space is one or more alternatives. Each alternative is a recipe whose settings are values,
choices or ranges; a point names the alternative and a value for each of its open settings.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

from mlflow_compress.errors import ConfigError
from mlflow_compress.records import Recipe, Step
from mlflow_compress.search.dimensions import (
    Choice,
    Dimension,
    Range,
    parse_choice,
    parse_range,
)
from mlflow_compress.techniques import validate_recipe

__all__ = [
    "ALTERNATIVE",
    "Alternative",
    "LayerDimension",
    "Point",
    "Space",
]

Point = dict[str, Any]

ALTERNATIVE = "recipe"
"""Name of the dimension that chooses among the alternatives of a space."""

_PACK = "pack"
_PROFILES = ("compact", "portable")
_PER_LAYER = {"prune": "sparsity", "share": "clusters", "weight_only": "bits"}
"""The setting of each technique that may have a value per layer."""


@dataclass(frozen=True)
class PerLayer:
    """A setting with a value, fixed or open, for each pattern of layers' names."""

    values: Mapping[str, Any]


@dataclass(frozen=True)
class LayerDimension:
    """An open setting of the layers that a pattern fits.

    Attributes:
        name: the dimension's name in points.
        alternative: which recipe it is from.
        technique: ``prune``, ``share`` or ``weight_only``.
        pattern: the layers.
        patterns: all patterns of the setting in order; the first that fits counts.
        options: the other settings of the step that are fixed.
        dimension: its values.
    """

    name: str
    alternative: int
    technique: str
    pattern: str
    patterns: tuple[str, ...]
    options: str
    dimension: Dimension


@dataclass(frozen=True)
class Alternative:
    """One recipe with open settings.

    Attributes:
        steps: technique names with their fixed or open settings, in order.
        profile: the packing profile, or the choice of it.
        dimensions: the open settings by the name that points use.
    """

    steps: tuple[tuple[str, Mapping[str, Any]], ...]
    profile: Any
    dimensions: Mapping[str, Dimension]

    def recipe(self, point: Point, prefix: str) -> Recipe:
        """Fill the open settings from ``point``."""
        steps = tuple(
            _filled(name, settings, point, f"{prefix}.{index}.{name}")
            for index, (name, settings) in enumerate(self.steps)
        )
        open_profile = isinstance(self.profile, Choice)
        profile = point[f"{prefix}.{_PACK}.profile"] if open_profile else self.profile
        return Recipe(steps, profile)


def _filled(name: str, settings: Mapping[str, Any], point: Point, where: str) -> Step:
    """Return a step with its open settings taken from a point."""
    values: dict[str, Any] = {}
    layers: dict[str, Any] | None = None
    for key, value in settings.items():
        at = f"{where}.{key}"
        if isinstance(value, PerLayer):
            layers = {
                pattern: point[f"{at}[{pattern}]"] if isinstance(one, Choice | Range) else one
                for pattern, one in value.values.items()
            }
        else:
            values[key] = point[at] if isinstance(value, Choice | Range) else value
    if layers is None:
        return Step(name, values)
    told = {"layers": layers_text(layers)}
    return Step(f"{name}_layers", told | ({"options": layers_text(values)} if values else {}))


def layers_text(values: Mapping[str, Any]) -> str:
    """Return values by pattern as techniques with a value per layer read them."""
    return ", ".join(f"{key}={_plain(value)}" for key, value in values.items())


def _plain(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


@dataclass(frozen=True)
class Space:
    """Alternatives to draw recipes from."""

    alternatives: tuple[Alternative, ...]

    @classmethod
    def parse(cls, recipes: Sequence[Any], where: str = "recipes") -> "Space":
        """Read recipes as they stand in a configuration.

        Each recipe is a list of steps; a step is a technique's name, or a mapping from the name
        to its settings. A setting is a value, ``{choices: […]}`` or
        ``{low: …, high: …, step: …, log: …}``. The last step may be ``pack: {profile: …}``.

        Raises:
            ConfigError: a step, a range or a setting is wrong; the message names its path.
        """
        if not recipes:
            raise ConfigError(f"{where}: no recipe given; name at least one technique")
        space = cls(
            tuple(
                _alternative(recipe, f"{where}[{i}]", f"r{i}") for i, recipe in enumerate(recipes)
            )
        )
        space._check_corners(where)
        return space

    def dimensions_of(self, index: int) -> Mapping[str, Dimension]:
        """The open settings of one alternative."""
        return self.alternatives[index].dimensions

    def recipe(self, point: Point) -> Recipe:
        """Return the recipe that a point stands for, validated, defaults settled."""
        index = point.get(ALTERNATIVE, 0)
        return validate_recipe(self.alternatives[index].recipe(point, f"r{index}"))

    def layer_dimensions(self) -> Iterator[LayerDimension]:
        """Yield the open settings that are for layers by pattern."""
        for index, alternative in enumerate(self.alternatives):
            for number, (technique, settings) in enumerate(alternative.steps):
                for key, value in settings.items():
                    if not isinstance(value, PerLayer):
                        continue
                    fixed = {
                        k: v
                        for k, v in settings.items()
                        if not isinstance(v, PerLayer | Choice | Range)
                    }
                    for pattern, one in value.values.items():
                        if isinstance(one, Choice | Range):
                            name = f"r{index}.{number}.{technique}.{key}[{pattern}]"
                            yield LayerDimension(
                                name, index, technique, pattern, tuple(value.values),
                                layers_text(fixed), one,
                            )  # fmt: skip

    def narrowed(self, changes: Mapping[str, Dimension]) -> "Space":
        """Return the space with other values for some settings of layers, by their names."""
        made = []
        for index, alternative in enumerate(self.alternatives):
            steps = []
            for number, (technique, settings) in enumerate(alternative.steps):
                at = f"r{index}.{number}.{technique}"
                told = {k: _narrowed(v, f"{at}.{k}", changes) for k, v in settings.items()}
                steps.append((technique, told))
            dimensions = {n: changes.get(n, d) for n, d in alternative.dimensions.items()}
            made.append(replace(alternative, steps=tuple(steps), dimensions=dimensions))
        return Space(tuple(made))

    @property
    def size(self) -> float:
        """How many points there are; infinite when a range has no step."""
        total = 0.0
        for alternative in self.alternatives:
            # in floats: there are more points of a value per layer than any of them says
            total += math.prod(float(d.count) for d in alternative.dimensions.values())
        return total

    @property
    def is_listable(self) -> bool:
        """Whether :meth:`points` can list every point."""
        dimensions = [d for a in self.alternatives for d in a.dimensions.values()]
        return all(dimension.expand() is not None for dimension in dimensions)

    @property
    def is_fixed(self) -> bool:
        """Whether no setting is open: a plain list of recipes."""
        return not any(alternative.dimensions for alternative in self.alternatives)

    def points(self) -> Iterator[Point]:
        """Yield every point, the last setting running fastest.

        Raises:
            ConfigError: a range without a step has infinitely many points.
        """
        for index, alternative in enumerate(self.alternatives):
            names, columns = list(alternative.dimensions), []
            for name, dimension in alternative.dimensions.items():
                values = dimension.expand()
                if values is None:
                    raise ConfigError(
                        f"search.strategy grid: {name} has no step, so its range has infinitely "
                        "many values; give it a step or choices"
                    )
                columns.append(values)
            for values in product(*columns):
                yield {ALTERNATIVE: index, **dict(zip(names, values, strict=True))}

    def corners(self) -> Iterator[tuple[int, Recipe]]:
        """Yield each alternative's recipes at the ends of its ranges and for each choice.

        Yields:
            The alternative's index, and a recipe.

        Raises:
            ConfigError: a setting or its range is not allowed.
        """
        for index in range(len(self.alternatives)):
            for recipe in self._corners_of(index):
                yield index, recipe

    def _corners_of(self, index: int) -> Iterator[Recipe]:
        dimensions = self.dimensions_of(index)
        first, last = (
            {ALTERNATIVE: index} | {name: d.end(end) for name, d in dimensions.items()}
            for end in (0, -1)
        )
        yield self.recipe(first)
        yield self.recipe(last)
        for name, dimension in dimensions.items():
            if isinstance(dimension, Choice):
                for value in dimension.values[1:-1]:
                    yield self.recipe(first | {name: value})

    def _check_corners(self, where: str) -> None:
        """Validate the extreme points and each choice, so that no search meets a bad value."""
        for index in range(len(self.alternatives)):
            try:
                for _ in self._corners_of(index):
                    pass
            except ConfigError as error:
                raise ConfigError(f"{where}[{index}]: {error}") from error


def _narrowed(value: Any, at: str, changes: Mapping[str, Dimension]) -> Any:
    if not isinstance(value, PerLayer):
        return value
    return PerLayer({p: changes.get(f"{at}[{p}]", one) for p, one in value.values.items()})


def _alternative(recipe: Any, where: str, prefix: str) -> Alternative:
    if not isinstance(recipe, list | tuple):
        raise ConfigError(f"{where}: a recipe is a list of steps, got {recipe!r}")
    steps: list[tuple[str, Mapping[str, Any]]] = []
    profile: str | Choice = "compact"
    dimensions: dict[str, Dimension] = {}
    for index, entry in enumerate(recipe):
        name, settings = _step(entry, f"{where}[{index}]")
        parsed = {key: _setting(v, f"{where}[{index}].{name}.{key}") for key, v in settings.items()}
        if name == _PACK:
            if index != len(recipe) - 1:
                raise ConfigError(f"{where}[{index}]: pack must be the last step")
            profile = _profile(parsed, f"{where}[{index}].pack")
            if isinstance(profile, Choice):
                dimensions[f"{prefix}.{_PACK}.profile"] = profile
            continue
        for key, value in parsed.items():
            at = f"{prefix}.{index}.{name}.{key}"
            if isinstance(value, Choice | Range):
                dimensions[at] = value
            if isinstance(value, PerLayer):
                _check_per_layer(name, key, f"{where}[{index}]")
                open_ones = {p: v for p, v in value.values.items() if isinstance(v, Choice | Range)}
                dimensions |= {f"{at}[{pattern}]": one for pattern, one in open_ones.items()}
        steps.append((name, parsed))
    return Alternative(tuple(steps), profile, dimensions)


def _check_per_layer(name: str, key: str, where: str) -> None:
    """Refuse layers where no technique takes a value for each."""
    if _PER_LAYER.get(name) != key:
        known = ", ".join(f"{technique}.{setting}" for technique, setting in _PER_LAYER.items())
        raise ConfigError(f"{where}.{name}.{key}: takes no layers; {known} do")


def _step(entry: Any, where: str) -> tuple[str, Mapping[str, Any]]:
    if isinstance(entry, str):
        return entry, {}
    if isinstance(entry, Mapping) and len(entry) == 1:
        name, settings = next(iter(entry.items()))
        if settings is None:
            return str(name), {}
        if isinstance(settings, Mapping):
            return str(name), settings
    raise ConfigError(
        f"{where}: a step is a technique's name or one mapping such as "
        f"'prune: {{sparsity: 0.8}}', got {entry!r}"
    )


def _profile(settings: Mapping[str, Any], where: str) -> str | Choice:
    unknown = set(settings) - {"profile"}
    if unknown:
        raise ConfigError(f"{where}: unknown setting {sorted(unknown)[0]!r}; allowed: profile")
    profile = settings.get("profile", "compact")
    for value in profile.values if isinstance(profile, Choice) else (profile,):
        if value not in _PROFILES:
            raise ConfigError(f"{where}.profile: must be compact or portable, got {value!r}")
    return profile


def _setting(value: Any, where: str) -> Any:
    if not isinstance(value, Mapping):
        return value
    if "layers" in value:
        layers = value["layers"]
        if len(value) != 1 or not isinstance(layers, Mapping) or not layers:
            raise ConfigError(f"{where}: layers must map patterns to values, got {value!r}")
        return PerLayer({str(p): _setting(v, f"{where}.layers.{p}") for p, v in layers.items()})
    if "choices" in value:
        return parse_choice(value, where)
    if "low" in value or "high" in value:
        return parse_range(value, where)
    return value
