"""The configurations that a receiver works for, and the registered models that they watch."""

import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from mlflow_compress.config.compress import Config, load_config
from mlflow_compress.errors import ConfigError
from mlflow_compress.tracking.names import variants_name

__all__ = ["EVENTS", "Watched", "concerned", "load_watched"]

EVENTS = ("model_version.created", "model_version_alias.created")
"""What a source can become another version by."""


@dataclass(frozen=True)
class Watched:
    """One configuration.

    Attributes:
        key: names its job; of letters, digits and ``-``.
        path: the configuration file.
        model: the registered model that is its source.
        makes: the registered model that its variants go to.
    """

    key: str
    path: Path
    model: str
    makes: str


def load_watched(paths: Sequence[Path]) -> tuple[Watched, ...]:
    """Read and check the configurations of a receiver.

    Raises:
        ConfigError: one is wrong, has a source that no event tells of, or would start itself.
    """
    found = {one.path: one for one in map(_watched, paths)}
    for one in found.values():
        _refuse_loop(one, found.values())
    return tuple(found.values())


def concerned(watched: Iterable[Watched], about: str, model: str) -> list[Watched]:
    """Return the configurations whose source an event may have changed."""
    return [one for one in watched if about in EVENTS and one.model == model]


def _watched(path: Path) -> Watched:
    config = load_config(path)
    model = _registered_model(config, path)
    whole = path.resolve()
    slug = re.sub(r"[^A-Za-z0-9]+", "-", f"{whole.parent.name}-{whole.stem}").strip("-")[:60]
    key = f"{slug}-{hashlib.sha256(str(whole).encode()).hexdigest()[:12]}"
    return Watched(key, whole, model, variants_name(model, config.register_as))


def _registered_model(config: Config, path: Path) -> str:
    match = re.fullmatch(r"models:/+([^/@]+)(@[^/@]+|/latest|/\d+)", config.source)
    if match is None:
        raise ConfigError(
            f"config {path}: source {config.source!r} must be models:/name@alias, "
            "models:/name/latest or models:/name/3: MLflow tells of no other's changes"
        )
    return match.group(1)


def _refuse_loop(start: Watched, everyone: Iterable[Watched]) -> None:
    """Refuse a configuration whose own versions would start it again."""
    reached, ahead = set(), [start]
    while ahead:
        here = ahead.pop()
        if here.makes == start.model:
            raise ConfigError(
                f"config {start.path}: its source {start.model!r} is what config {here.path} "
                "registers under, so that it would start itself for ever: name another register_as"
            )
        reached.add(here.key)
        ahead += [one for one in everyone if one.model == here.makes and one.key not in reached]
