"""The one reader of YAML: a key twice is refused, and no text makes more than it says.

YAML lets the last of two equal keys win, lets a few lines stand for billions of nodes through
aliases, and its parser goes as deep as the text does. None of that is meant by whoever writes a
configuration.
"""

from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml
from yaml.constructor import ConstructorError

from mlflow_compress.errors import ConfigError, shown

__all__ = ["MOST_BYTES", "MOST_DEPTH", "MOST_NODES", "parse_yaml", "read_yaml_file"]

MOST_BYTES = 1 << 19
"""Bytes of a file; the reader takes a few seconds for 100 kB."""

MOST_DEPTH = 50
"""Mappings and lists inside one another."""

MOST_NODES = 100_000
"""Keys, values and items, those behind an alias counted each time it stands there."""

_MOST_INTEGER = 2**63


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader, within bounds."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._depth = 0
        self._sizes: dict[int, int] = {}

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        """Compose a node, and count what it stands for."""
        event = self.peek_event()
        self._depth += 1
        if self._depth > MOST_DEPTH:
            raise _refused(f"more than {MOST_DEPTH} levels inside one another", event.start_mark)
        node = super().compose_node(parent, index)
        self._depth -= 1
        if node is None:
            return None
        if not isinstance(event, yaml.AliasEvent):
            self._sizes[id(node)] = self._size(node)
        if id(node) not in self._sizes:
            raise _refused("an alias of what it stands in", event.start_mark)
        if self._sizes[id(node)] > MOST_NODES:
            raise _refused(
                f"more than {MOST_NODES:,} keys and values, aliases counted", event.start_mark
            )
        return node

    def _size(self, node: yaml.Node) -> int:
        """Return how many nodes one stands for, from the sizes of its parts."""
        if isinstance(node, yaml.MappingNode):
            return 1 + sum(self._sizes[id(part)] for pair in node.value for part in pair)
        if isinstance(node, yaml.SequenceNode):
            return 1 + sum(self._sizes[id(part)] for part in node.value)
        return 1

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        """Compose a mapping whose keys stand there once; what it merges may be overridden."""
        node = super().compose_mapping_node(anchor)
        lines: dict[Hashable, int] = {}
        for key_node, _ in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                raise _refused("a mapping or a list as a key", key_node.start_mark)
            is_special = key_node.tag.endswith((":merge", ":value"))
            key = key_node.value if is_special else self.construct_object(key_node)
            line = key_node.start_mark.line + 1
            if key in lines:
                where = f"in lines {lines[key]} and {line}" if line != lines[key] else "in one line"
                raise ConstructorError(
                    None, None, f"the key {shown(key)} stands there twice, {where}: keep one"
                )
            lines[key] = line
        return node

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        """Put in what a mapping merges, and leave of each key what overrides the rest.

        PyYAML leaves all of them, and takes the first of those when the mapping is merged again.
        """
        super().flatten_mapping(node)
        last = {(key.tag, key.value): (key, value) for key, value in node.value}
        node.value = list(last.values())

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        """Construct a node; PyYAML lets errors of int, float and date through as they are."""
        try:
            made = super().construct_object(node, deep)
        except (ValueError, OverflowError, LookupError, TypeError, AttributeError):
            raise _refused(f"no {_kind(node)}: {shown(node.value)}", node.start_mark) from None
        if isinstance(made, int) and not -_MOST_INTEGER <= made < _MOST_INTEGER:
            raise _refused(f"a number beyond 64 bits: {shown(node.value)}", node.start_mark)
        if isinstance(made, str) and not _is_text(made):
            raise _refused(f"characters that are no text: {shown(made)}", node.start_mark)
        return made


def _kind(node: yaml.Node) -> str:
    return str(node.tag).rpartition(":")[2]


def _is_text(made: str) -> bool:
    """Whether it can be printed and be a path: no half of a surrogate pair, no NUL."""
    return "\0" not in made and not any("\ud800" <= one <= "\udfff" for one in made)


def _refused(problem: str, mark: yaml.Mark) -> ConstructorError:
    return ConstructorError(None, None, f"line {mark.line + 1} has {problem}")


def parse_yaml(text: str, label: str) -> Any:
    """Return what a YAML text says.

    Args:
        text: one document.
        label: what it is, for the message, such as ``config compress.yaml``.

    Raises:
        ConfigError: it is no YAML, has a key twice, or is larger or deeper than any configuration.
    """
    if len(text) > MOST_BYTES:
        raise ConfigError(f"{label}: is longer than {MOST_BYTES:,} characters: shorten it")
    try:
        return _Loader(text).get_single_data()
    except ConstructorError as error:
        problem = error.problem if error.context is None else str(error)
        raise ConfigError(f"{label}: {' '.join(str(problem).split())}") from None
    except (yaml.YAMLError, RecursionError) as error:
        raise ConfigError(f"{label} is not YAML: {' '.join(str(error).split())}") from None


def read_yaml_file(path: Path, label: str) -> dict[str, Any]:
    """Return a YAML file's keys.

    Args:
        path: the file; it may be a pipe.
        label: what it is, for the message.

    Raises:
        ConfigError: it cannot be read, is no mapping, or as :func:`parse_yaml`.
    """
    try:
        with path.open("rb") as file:
            data = file.read(MOST_BYTES + 1)
        text = data.decode()
    except (OSError, ValueError) as error:
        told = error.strerror if isinstance(error, OSError) else f"is not YAML: {error}"
        raise ConfigError(f"{label}: {told or error}") from None
    found = parse_yaml(text, label)
    if not isinstance(found, dict):
        raise ConfigError(f"{label}: must be a mapping of keys, got {shown(found)}")
    return found
