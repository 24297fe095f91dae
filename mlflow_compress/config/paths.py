"""The schema of the file of a path search.

Paths in the file are relative to the file's folder.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pydantic import Field

from mlflow_compress.base import bounds
from mlflow_compress.base.strict import Strict
from mlflow_compress.config.compress import (
    DataRef,
    TargetSpec,
    absolute_path,
    absolute_ref,
    absolute_store,
    absolute_targets,
)
from mlflow_compress.config.text import checked, read_yaml
from mlflow_compress.targets import Target, load_target

__all__ = ["PathConfig", "find_target", "load_path_config"]


class PathData(Strict):
    """What networks are trained on, and what the one that is found is scored on in the end."""

    train: str | DataRef = Field(description="square images with labels; a tenth is held out")
    evaluation: str | DataRef | None = Field(
        default=None, description="rows that it is scored on; by default those held out"
    )


class PathConfig(Strict):
    """A path search from its space to a registered network."""

    name: str = Field(
        min_length=1, pattern=r"^[^/:.%\"']+$", max_length=256,
        description="registered model of the network",
    )  # fmt: skip
    experiment: str | None = Field(default=None, min_length=1, description="by default the name")
    tracking_uri: str | None = Field(
        default=None,
        description="by default MLFLOW_TRACKING_URI; sqlite:/// paths are relative to here",
    )
    data: PathData
    space: dict[str, Any] = Field(description="stem, stages and candidates")
    search: dict[str, Any] = Field(default={}, description="how to search")
    targets: list[TargetSpec] = Field(default=[], description="targets that may be named")
    seed: int = Field(default=0, ge=0, le=bounds.SEED.most)
    checkpoint_folder: str | None = Field(
        default=None,
        description="where a search that was broken off goes on from; by default the user's cache",
    )


def load_path_config(path: Path, overrides: Iterable[str] = ()) -> PathConfig:
    """Read and check a file.

    Args:
        path: the file.
        overrides: ``KEY=VALUE`` texts, as for ``compress.yaml``.

    Raises:
        ConfigError: one line with the key's path, the value and what is allowed.
    """
    config = checked(PathConfig, read_yaml(path, overrides), str(path))
    folder = path.resolve().parent
    refs = {"train": config.data.train, "evaluation": config.data.evaluation}
    given = config.checkpoint_folder
    update = {role: absolute_ref(ref, folder) for role, ref in refs.items() if ref is not None}
    return config.model_copy(
        update={
            "data": config.data.model_copy(update=update),
            "tracking_uri": absolute_store(config.tracking_uri, folder),
            "targets": absolute_targets(config.targets, folder),
            "checkpoint_folder": None if given is None else absolute_path(given, folder),
        }
    )


def find_target(config: PathConfig, name: str) -> Target:
    """Return the configuration's target of a name, or else the shipped profile or the file.

    Raises:
        ConfigError: there is no such target.
    """
    own = {target.name: target for target in map(load_target, config.targets)}
    return own[name] if name in own else load_target(name)
