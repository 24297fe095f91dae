"""How points of a space become parameters of an Optuna study, and back.

Samplers learn from numbers. Every setting with finitely many values is drawn as the position of
its value, so that no list, text or rounded float reaches Optuna; positions of numbers in order are
ordered, others are categories. Settings of the same name and range in several alternatives are one
parameter: what is learnt in one recipe counts in the others.
"""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from mlflow_compress.search.dimensions import Choice, Dimension
from mlflow_compress.search.space import ALTERNATIVE, Point, Space

if TYPE_CHECKING:
    import optuna

__all__ = ["Encoding", "is_ordered"]


def is_ordered(dimension: Dimension) -> bool:
    """Whether neighbours among a dimension's values are alike: numbers in order."""
    if not isinstance(dimension, Choice):
        return True
    values = dimension.values
    numbers = all(isinstance(v, int | float) and not isinstance(v, bool) for v in values)
    return numbers and list(values) == sorted(values)


class Encoding:
    """Translates between points and a study's parameters.

    Args:
        space: where the points are from.
        whole: suggest every parameter in every trial, the unused ones too. Optuna's Gaussian
            process models only the parameters that all trials have.
    """

    def __init__(self, space: Space, *, whole: bool = False) -> None:
        self.space = space
        self._whole = whole
        self._dimensions: dict[str, Dimension] = {}
        self._names: list[dict[str, str]] = []
        for alternative in space.alternatives:
            names: dict[str, str] = {}
            for name, dimension in alternative.dimensions.items():
                names[name] = self._parameter(name, dimension, set(names.values()))
                self._dimensions[names[name]] = dimension
            self._names.append(names)

    def _parameter(self, name: str, dimension: Dimension, taken: set[str]) -> str:
        """Return the name of the parameter that a dimension is drawn as."""
        parts = name.split(".", 2)
        base = parts[2] if parts[1].isdecimal() else name.split(".", 1)[1]
        for text in _numbered(base):
            if text not in taken and self._dimensions.get(text, dimension) == dimension:
                return text
        raise AssertionError("unreachable: the names are endless")

    def suggest(self, asked: "optuna.Trial") -> Point:
        """Draw one point: the alternative first, then its open settings."""
        last = len(self.space.alternatives) - 1
        index = asked.suggest_int(ALTERNATIVE, 0, last) if last else 0
        names = self._names[index]
        wanted = list(self._dimensions) if self._whole else list(names.values())
        values = {name: _suggest(asked, name, self._dimensions[name]) for name in wanted}
        return {ALTERNATIVE: index} | {name: values[p] for name, p in names.items()}

    def parameters(self, point: Point) -> Mapping[str, Any]:
        """Return a point as parameters to enqueue; unused ones are at their lowest value."""
        index = point[ALTERNATIVE]
        names = self._names[index]
        values = {}
        if len(self.space.alternatives) > 1:
            values[ALTERNATIVE] = index
        if self._whole:
            values |= {name: _encode(d, d.end(0)) for name, d in self._dimensions.items()}
        return values | {p: _encode(self._dimensions[p], point[name]) for name, p in names.items()}


def _numbered(base: str) -> Iterator[str]:
    yield base
    number = 2
    while True:
        yield f"{base}~{number}"
        number += 1


def _suggest(asked: "optuna.Trial", name: str, dimension: Dimension) -> Any:
    values = dimension.expand()
    if values is None:
        assert not isinstance(dimension, Choice)
        if dimension.integer:
            return asked.suggest_int(name, int(dimension.low), int(dimension.high), log=True)
        low, high = dimension.low, dimension.high
        return round(asked.suggest_float(name, low, high, log=dimension.log), 12)
    if is_ordered(dimension):
        return values[asked.suggest_int(name, 0, len(values) - 1)]
    return values[asked.suggest_categorical(name, range(len(values)))]


def _encode(dimension: Dimension, value: Any) -> Any:
    values = dimension.expand()
    return value if values is None else values.index(value)
