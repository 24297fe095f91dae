"""What packages register by entry point: the one place where it is looked up."""

from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from mlflow_compress.base.foreign import foreign
from mlflow_compress.base.spelling import closest
from mlflow_compress.errors import ConfigError

__all__ = ["Group"]


class Group:
    """An entry-point group: what this package and others bring, by name.

    It is looked up once in a process: that takes 10 ms.

    Attributes:
        name: of the group, such as ``mlflow_compress.techniques``.
        kind: what it holds, for messages.
    """

    def __init__(self, name: str, kind: str) -> None:
        """Look up nothing yet."""
        self.name = name
        self.kind = kind

    def names(self) -> tuple[str, ...]:
        """Return the names of all that is installed, sorted."""
        return tuple(sorted(_points(self.name)))

    def __contains__(self, name: object) -> bool:
        return name in _points(self.name)

    def load(self, name: str) -> Any:
        """Return what is registered under a name.

        Raises:
            ConfigError: nothing is, or two packages bring one; the message says what there is.
            DataError: its module does not work; the message names the package that brings it.
            ModuleNotFoundError: it needs a package that is not installed.
        """
        point = self.point(name)
        with foreign(f"{self.kind} {name!r} ({_package(point)})"):
            return point.load()

    def point(self, name: str) -> EntryPoint:
        """Return the entry point of a name.

        Raises:
            ConfigError: there is none, or two packages bring one; the message says what there is.
        """
        points = _points(self.name)
        if name not in points:
            installed = ", ".join(self.names()) or "none (is mlflow-compress installed?)"
            raise ConfigError(
                f"{self.kind} {name!r} does not exist{closest(name, points)}; "
                f"installed: {installed}"
            )
        first, *others = points[name]
        other = next((one for one in others if one.value != first.value), None)
        if other is not None:
            raise ConfigError(
                f"{self.kind} {name!r} is brought by {_package(first)} and by {_package(other)}: "
                "uninstall one of them"
            )
        return first

    def provider(self, name: str) -> str:
        """Return the package that brings a name with its version, as far as it is known."""
        point = self.point(name)
        return "" if point.dist is None else _package(point)


def _package(point: EntryPoint) -> str:
    return point.value if point.dist is None else f"{point.dist.name} {point.dist.version}"


@cache
def _points(group: str) -> dict[str, list[EntryPoint]]:
    """Return what is registered by name, of which one package may take another's."""
    found: dict[str, list[EntryPoint]] = {}
    for point in entry_points(group=group):
        found.setdefault(point.name, []).append(point)
    return found
