"""Configuration files as text: YAML read, keys overridden, and errors told in one line."""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ValidationError

from mlflow_compress.base.spelling import closest
from mlflow_compress.base.yaml_text import parse_yaml, read_yaml_file
from mlflow_compress.errors import ConfigError, shown

__all__ = ["checked", "read_yaml"]

M = TypeVar("M", bound=BaseModel)


def read_yaml(path: Path, overrides: Iterable[str] = ()) -> dict[str, Any]:
    """Return a YAML file's keys with overrides put in.

    Args:
        path: the file.
        overrides: ``KEY=VALUE`` texts; the key is dotted (``search.trials``, ``targets.0``), the
            value is YAML.

    Raises:
        ConfigError: it cannot be read, has a key twice, or an override does not fit or overrides
            another.
    """
    data = read_yaml_file(path, f"config {path}")
    put: dict[tuple[int | str, ...], str] = {}
    for override in overrides:
        _override(data, override, put)
    return data


def checked(model: type[M], data: Mapping[str, Any], label: str) -> M:
    """Return plain data as a model of pydantic.

    Raises:
        ConfigError: one line with the label, the key's path, the value and what is allowed.
    """
    try:
        return model.model_validate(data)
    except ValidationError as error:
        raise ConfigError(f"{label}: {_one_line(error, model)}") from None


def _override(data: Any, override: str, put: dict[tuple[int | str, ...], str]) -> None:
    """Put one override in, and its path into ``put``; what one of those put stays as it is."""
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise ConfigError(f"--set {override}: must be KEY=VALUE, such as search.trials=20")
    value = parse_yaml(text, f"--set {override}: the value {shown(text)}")
    path: tuple[int | str, ...] = ()
    *parents, last = key.split(".")
    for part in parents:
        if isinstance(data, dict):
            if data.get(part) is None:
                data[part] = {}
            elif isinstance(data[part], str):
                # The short form of a section, such as `evaluation: rows.npz`.
                data[part] = {"path": data[part]}
        index = _index(data, part, override)
        path, data = (*path, index), data[index]
    if not isinstance(data, dict | list):
        raise ConfigError(
            f"--set {override}: {key} lies below a value that has no keys: {shown(data)}"
        )
    index = _index(data, last, override)
    path = (*path, index)
    _check_lost(path, index in data if isinstance(data, dict) else True, override, put)
    put[path] = override
    data[index] = value


def _check_lost(
    path: tuple[int | str, ...],
    has_value: bool,
    override: str,
    put: dict[tuple[int | str, ...], str],
) -> None:
    """Refuse an override that another one would be lost by, whichever of them is wider."""
    for earlier, said in put.items():
        is_wider = earlier[: len(path)] == path
        is_narrower = path[: len(earlier)] == earlier and has_value
        if is_wider or is_narrower:
            raise ConfigError(f"--set {override}: overrides --set {said}: keep one")


def _index(data: Any, part: str, override: str) -> Any:
    if not isinstance(data, list):
        return part
    if part.isdecimal() and len(part) < 10 and int(part) < len(data):
        return int(part)
    raise ConfigError(f"--set {override}: {part!r} must be an index below {len(data)}")


def _one_line(error: ValidationError, root: type[BaseModel]) -> str:
    """Turn pydantic's most telling finding into one line: key, rule, value."""
    findings = error.errors(include_url=False)
    # Of a union's branches the one that got deepest into the data says most.
    first = max(findings, key=lambda finding: len(finding["loc"]))
    if findings[0]["type"] in ("missing", "extra_forbidden"):
        first = findings[0]
    where = ".".join(_path(first["loc"]))
    kind, value = first["type"], first.get("input")
    if kind == "extra_forbidden":
        return f"unknown key {where}{_did_you_mean(first['loc'], root)}"
    if kind == "missing":
        return f"{where} is missing"
    if kind == "value_error":
        text = str(first.get("ctx", {}).get("error", first["msg"]))
        return f"{where} {text}".strip()
    rule = first["msg"][0].lower() + first["msg"][1:]
    return f"{where}: {rule.replace('input should', 'must')}, got {shown(value)}"


def _path(loc: tuple[int | str, ...]) -> list[str]:
    """Drop what pydantic puts in for a union's branches (``DataRef``, ``str``, ``dict[…]``)."""
    branches = ("DataRef", "str", "list", "dict")
    return [str(part) for part in loc if not str(part).startswith(branches)]


def _did_you_mean(loc: tuple[int | str, ...], root: type[BaseModel]) -> str:
    path = _path(loc)
    names = list(_model_at(root, path[:-1]).model_fields)
    return closest(path[-1], names) or f"; known keys: {', '.join(names)}"


def _model_at(model: type[BaseModel], path: list[str]) -> type[BaseModel]:
    """Return the model that a path leads to, as far as it leads to one."""
    for part in path:
        if part in model.model_fields:
            model = next(_models_in(model.model_fields[part].annotation), model)
    return model


def _models_in(hint: Any) -> Iterator[type[BaseModel]]:
    if isinstance(hint, type) and issubclass(hint, BaseModel):
        yield hint
    for part in get_args(hint):
        yield from _models_in(part)
