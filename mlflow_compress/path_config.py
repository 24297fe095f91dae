"""The configuration file of a path search."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from mlflow_compress.errors import ConfigError
from mlflow_compress.techniques.base import closest

__all__ = ["PathPlan", "load_plan"]

_KEYS = ("register_as", "experiment", "tracking_uri", "data", "space", "search")
_DATA_KEYS = ("train", "evaluation", "rows")
_SQLITE = "sqlite:///"


@dataclass(frozen=True)
class PathPlan:
    """What a configuration file of a path search says.

    Attributes:
        register_as: registered model of the network.
        experiment: of MLflow.
        tracking_uri: where to; None is MLflow's own.
        train: rows to learn from, see ``data.train``.
        evaluation: rows that the network is scored on once, or None.
        rows: at most so many training rows; None is all.
        space: as :meth:`PathSpace.parse` takes it.
        search: settings of :class:`PathSettings`.
    """

    register_as: str
    experiment: str
    tracking_uri: str | None
    train: str
    evaluation: str | None
    rows: int | None
    space: Mapping[str, Any]
    search: Mapping[str, Any]


def load_plan(path: Path, overrides: Iterable[str] = ()) -> PathPlan:
    """Read a configuration file.

    Args:
        path: the YAML file; relative paths in it start from its folder.
        overrides: ``KEY=VALUE`` texts with dotted keys, such as ``search.weight=0.5``.

    Raises:
        ConfigError: one line with the key, the value and what is allowed.
    """
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"config {path}: {error.strerror or error}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"config {path} is not YAML: {' '.join(str(error).split())}") from None
    data = _mapping(data, str(path))
    for override in overrides:
        _override(data, override)
    _known(data, _KEYS, "")
    rows = _mapping(data.get("data"), "data")
    _known(rows, _DATA_KEYS, "data.")
    for key, value in (("register_as", data.get("register_as")), ("data.train", rows.get("train"))):
        if not isinstance(value, str) or not value:
            raise ConfigError(f"{key} must be a text, got {value!r}")
    count = rows.get("rows")
    if count is not None and (not isinstance(count, int) or count < 2):
        raise ConfigError(f"data.rows must be a whole number of at least 2, got {count!r}")
    folder, name = path.resolve().parent, data["register_as"]
    evaluation = rows.get("evaluation")
    return PathPlan(
        name,
        str(data.get("experiment") or name),
        _uri(data.get("tracking_uri"), folder),
        _place(rows["train"], folder),
        None if evaluation is None else _place(str(evaluation), folder),
        count,
        _mapping(data.get("space"), "space"),
        _mapping(data.get("search") or {}, "search"),
    )


def _mapping(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ConfigError(f"{where} must be a mapping of keys, got {value!r}")
    return value


def _known(data: Mapping[str, Any], keys: Iterable[str], where: str) -> None:
    keys = list(keys)
    for key in data:
        if key not in keys:
            raise ConfigError(
                f"unknown key {where}{key}{closest(str(key), keys)}; known keys: {', '.join(keys)}"
            )


def _override(data: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise ConfigError(f"--set {override}: must be KEY=VALUE, such as search.weight=0.5")
    *parents, last = key.split(".")
    for part in parents:
        data = _mapping(data.setdefault(part, {}), part)
    data[last] = yaml.safe_load(text)


def _place(spec: str, folder: Path) -> str:
    is_function = ":" in spec and not Path(spec).suffix
    return spec if is_function else str(folder / spec)


def _uri(uri: str | None, folder: Path) -> str | None:
    if uri is not None and uri.startswith(_SQLITE):
        return _SQLITE + str(folder / uri.removeprefix(_SQLITE))
    return uri
