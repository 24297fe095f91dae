"""The schema of a ``space.yaml``: a supernet, how it is trained, and what it is specialised for.

Paths in the file are relative to the file's folder.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator

from mlflow_compress.base import bounds
from mlflow_compress.base.strict import Strict
from mlflow_compress.config.compress import (
    DataRef,
    RecipeSpec,
    TargetSpec,
    absolute_path,
    absolute_ref,
    absolute_store,
    absolute_targets,
)
from mlflow_compress.config.text import checked, read_yaml
from mlflow_compress.nas import Space

__all__ = ["NasConfig", "SpecializeConfig", "SupernetTraining", "load_nas_config"]

Kind = Literal["resolution", "kernel", "depth", "width"]


class NasData(Strict):
    """What a supernet is trained on, and what subnets are scored on in the end."""

    train: str | DataRef = Field(description="square images with labels; a tenth is held out")
    evaluation: str | DataRef = Field(description="rows that source and variants are scored on")


class SupernetTraining(Strict):
    """How a supernet is trained."""

    full: float = Field(
        default=3, gt=0, le=bounds.EPOCHS.most, description="epochs of the largest network"
    )
    kernel: float = Field(
        default=1, gt=0, le=bounds.EPOCHS.most, description="epochs with kernels opened"
    )
    depth: float = Field(
        default=1, gt=0, le=bounds.EPOCHS.most, description="epochs with depths opened as well"
    )
    width: float = Field(
        default=3, gt=0, le=bounds.EPOCHS.most, description="epochs with widths opened as well"
    )
    learning_rate: float = Field(default=0.2, gt=0, le=10)
    batch: int = Field(default=128, ge=2, le=bounds.BATCH.most)
    seed: int = Field(default=0, ge=0, le=bounds.SEED.most)
    checkpoint_folder: str | None = Field(
        default=None,
        description="where a broken-off training goes on from; by default the cache of the user",
    )


class SpecializeConfig(Strict):
    """How a target's subnet is found."""

    recipes: list[RecipeSpec] = Field(
        default=[[]], min_length=1, description="what is done to each subnet; as in compress.yaml"
    )
    register_as: str | None = Field(
        default=None,
        pattern=r"^[^/:.%\"']+$",
        description="registered model of the variants; by default the supernet's name and -edge",
    )
    samples: int = Field(
        default=60,
        ge=10,
        le=bounds.TRIALS.most,
        description="subnets that are scored to teach the accuracy predictor",
    )
    calibration: int = Field(
        default=20,
        ge=5,
        le=bounds.TRIALS.most,
        description="whole networks that calibrate the latency table",
    )
    population: int = Field(
        default=100,
        ge=10,
        le=bounds.TRIALS.most,
        description="of the evolution",
    )
    generations: int = Field(
        default=30,
        ge=1,
        le=bounds.TRIALS.most,
        description="of the evolution",
    )
    finalists: int = Field(
        default=6,
        ge=1,
        le=bounds.TRIALS.most,
        description="subnets that are scored and measured for each target",
    )
    keep: int = Field(
        default=2,
        ge=1,
        le=bounds.TRIALS.most,
        description="the best finalists that go through the recipes, per target",
    )
    bytes_per_weight: float = Field(
        default=4.0,
        gt=0,
        description="what a weight will take in the file, for targets with a limit on size",
    )
    order: tuple[Kind, ...] = Field(
        default=("resolution", "kernel", "depth", "width"),
        min_length=1,
        description="of the mode shrink; what is left out stays as it is",
    )
    rounds: int = Field(
        default=15,
        ge=4,
        le=bounds.ROUNDS.most,
        description="interleaved rounds of each measurement",
    )
    seed: int = Field(default=0, ge=0, le=bounds.SEED.most)

    @field_validator("order")
    @classmethod
    def _once(cls, order: tuple[Kind, ...]) -> tuple[Kind, ...]:
        twice = next((kind for kind in order if order.count(kind) > 1), None)
        if twice is not None:
            raise ValueError(f"{twice} stands there twice, keep one")
        return order


class NasConfig(Strict):
    """A supernet from its space to the devices."""

    name: str = Field(
        min_length=1, pattern=r"^[^/:.%\"']+$", max_length=256,
        description="registered model of the supernet",
    )  # fmt: skip
    experiment: str | None = Field(default=None, min_length=1, description="by default the name")
    tracking_uri: str | None = Field(
        default=None,
        description="by default MLFLOW_TRACKING_URI; sqlite:/// paths are relative to here",
    )
    data: NasData
    space: Space
    train: SupernetTraining = SupernetTraining()
    specialize: SpecializeConfig = SpecializeConfig()
    targets: list[TargetSpec] = Field(default=[], description="edge targets to specialise for")


def load_nas_config(path: Path, overrides: Iterable[str] = ()) -> NasConfig:
    """Read and check a ``space.yaml``.

    Args:
        path: the file.
        overrides: ``KEY=VALUE`` texts, as for ``compress.yaml``.

    Raises:
        ConfigError: one line with the key's path, the value and what is allowed.
    """
    config = checked(NasConfig, read_yaml(path, overrides), str(path))
    folder = path.resolve().parent
    data = config.data
    refs = {"train": data.train, "evaluation": data.evaluation}
    given = config.train.checkpoint_folder
    kept = absolute_path(given, folder) if given is not None else None
    return config.model_copy(
        update={
            "data": data.model_copy(
                update={role: absolute_ref(ref, folder) for role, ref in refs.items()}
            ),
            "train": config.train.model_copy(update={"checkpoint_folder": kept}),
            "tracking_uri": absolute_store(config.tracking_uri, folder),
            "targets": absolute_targets(config.targets, folder),
        }
    )
