"""The schema of ``compress.yaml``: pydantic models, one-line errors, ``--set`` overrides.

Paths in the file are relative to the file's folder.
"""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from mlflow_compress.base import bounds
from mlflow_compress.base.once import put_once
from mlflow_compress.base.paths import as_text, from_home
from mlflow_compress.base.strict import Strict
from mlflow_compress.base.yaml_text import parse_yaml
from mlflow_compress.config.text import checked, read_yaml
from mlflow_compress.errors import ConfigError
from mlflow_compress.records import InputSpec
from mlflow_compress.search.observer import WINDOW
from mlflow_compress.targets.units import parse_size

__all__ = [
    "Config",
    "DataConfig",
    "DataRef",
    "InputConfig",
    "MetricConfig",
    "RecipeSpec",
    "SearchConfig",
    "TargetSpec",
    "absolute_function",
    "absolute_path",
    "absolute_paths",
    "absolute_ref",
    "absolute_store",
    "absolute_targets",
    "config_schema",
    "input_specs",
    "load_config",
    "parse_config",
    "parse_inputs",
]

_SQLITE = "sqlite:///"


class DataRef(Strict):
    """Rows to use: a file or a function."""

    path: str = Field(min_length=1, description=".npz, .csv, .parquet, or module:function")
    rows: int | None = Field(
        default=None, ge=1, le=bounds.COUNT.most, description="use only the first so many rows"
    )
    name: str | None = Field(default=None, description="what the dataset is called in MLflow")


def _check_output(value: Any) -> Any:
    from mlflow_compress.measure.outputs import check_given

    if not isinstance(value, str | dict):
        raise ValueError(f"must be a kind or a mapping with kind, got {value!r}")
    try:
        check_given("", value)
    except ConfigError as error:
        raise ValueError(str(error).removeprefix("output '': ")) from None
    return value


OutputSpec = Annotated[str | dict[str, Any], BeforeValidator(_check_output)]


class MetricConfig(Strict):
    """A metric, and what is to be different about it."""

    name: str = Field(min_length=1, description="a metric's name, or module:function")
    output: str | None = Field(default=None, description="the output that it reads")
    higher_is_better: bool | None = Field(default=None, description="false for an error")
    unit: str | None = Field(
        default=None, description="share (shown as %), points, a text such as dB, or empty"
    )


class InputConfig(Strict):
    """How the model takes one input, where model and data do not tell."""

    axis: int | Literal["none"] | None = Field(
        default=None,
        description="the axis of the model's input along which the rows are; none: it has none",
    )
    state_of: str = Field(
        default="", description="the output of one call that is this input of the next"
    )
    value: float | None = Field(
        default=None, description="what the input is filled with when the data do not have it"
    )
    mask: str = Field(
        default="", description="the input that is 1 where there are values and 0 in the padding"
    )
    padding: float = Field(
        default=0.0, description="what shorter rows are filled up with, where a mask is named"
    )


class DataConfig(Strict):
    """What techniques may look at, and what variants are scored on."""

    calibration: str | DataRef | None = Field(
        default=None, description="inputs that techniques may look at; no labels are used"
    )
    train: str | DataRef | None = Field(
        default=None, description="rows that techniques may train on, with or without labels"
    )
    evaluation: str | DataRef = Field(description="rows that source and variants are scored on")
    outputs: dict[str, OutputSpec] = Field(
        default={},
        description="what outputs are, where that is not told rightly: classes, values, embedding, "
        "boxes, sequence, state or ignore, or a mapping with kind and its settings",
    )
    metric: str | MetricConfig = Field(
        default="accuracy",
        description="a metric's name, or module:function, perhaps with the output that it reads",
    )
    labels: Literal["data", "source"] = Field(
        default="data", description="source takes the source's own outputs as labels"
    )
    inputs: dict[str, InputConfig] = Field(
        default={}, description="how the model takes inputs, where model and data do not tell"
    )
    stream: int | None = Field(
        default=None,
        ge=1,
        le=bounds.COUNT.most,
        description="a state begins anew every so many rows; by default only at the first one",
    )

    @property
    def specs(self) -> dict[str, InputSpec]:
        """What is said of inputs, as records."""
        return {name: InputSpec(**one.model_dump()) for name, one in self.inputs.items()}

    @staticmethod
    def ref(value: str | DataRef) -> DataRef:
        """Return the long form of a data reference."""
        return DataRef(path=value) if isinstance(value, str) else value


CacheSize = Annotated[int, BeforeValidator(lambda v: v if v in (0, "0") else parse_size(v))]


def _check_sensitivity(value: Any) -> Any:
    if isinstance(value, bool) or value in ("seed", "shrink", "both"):
        return value
    raise ValueError(f"must be false, true, seed, shrink or both, got {value!r}")


Sensitivity = Annotated[
    bool | Literal["seed", "shrink", "both"], BeforeValidator(_check_sensitivity)
]


class SearchConfig(Strict):
    """How recipes are chosen and how many are tried."""

    strategy: str | None = Field(
        default=None,
        description="manual, grid, random, gp, tpe, nsga2, evolution, …; by default what fits",
    )
    trials: int = Field(
        default=50, ge=1, le=bounds.TRIALS.most, description="the most recipes to try"
    )
    minutes: float | None = Field(
        default=None,
        gt=0,
        le=bounds.SECONDS.most / 60,
        description="no trial begins after so many minutes",
    )
    patience: int | None = Field(
        default=None,
        ge=1,
        le=bounds.TRIALS.most,
        description="end after so many trials that made the front no better",
    )
    seed: int = Field(default=0, ge=0, le=bounds.SEED.most)
    objectives: tuple[str, ...] | None = Field(
        default=None, min_length=1, description="rate, accuracy, fidelity, latency, reward"
    )
    sensitivity: Sensitivity = Field(
        default=False,
        description="first measure and log what each layer bears, and perhaps try first what it "
        "suggests (seed), leave out what is hopeless (shrink), or both",
    )
    screen: bool = Field(
        default=True, description="do not measure to the end what no target can take"
    )
    cache: CacheSize = Field(
        default=10**9, description="room for what recipes have in common, e.g. 2GB; 0 keeps none"
    )
    cache_folder: str | None = Field(
        default=None, description="where it stays for later searches; by default it does not"
    )
    executor: str = Field(
        default="process", description="where trials run: inline, process, dask, ray, …"
    )
    workers: int | None = Field(
        default=None,
        ge=1,
        le=bounds.WORKERS.most,
        description="trials at a time; by default a core each, 4 at most",
    )
    cluster: str = Field(
        default="", description="a dask or ray cluster's address; by default one is started here"
    )
    wait: float = Field(
        default=60,
        gt=0,
        le=bounds.SECONDS.most,
        description="seconds to wait for a cluster and its workers",
    )
    window: int = Field(
        default=WINDOW,
        ge=1,
        le=bounds.WORKERS.most,
        description="trials on their way at most, whatever the workers",
    )
    free_order: bool = Field(
        default=False, description="learn from trials as they come: faster, not repeatable"
    )
    checkpoint_folder: str | None = Field(
        default=None,
        description="where trainings that were broken off go on from; by default the user's cache",
    )
    latency_rounds: int = Field(
        default=15,
        ge=0,
        le=bounds.ROUNDS.most,
        description="interleaved rounds of each latency measurement; 0 measures none",
    )


RecipeSpec = Annotated[
    list[str | dict[str, dict[str, Any] | None]],
    Field(description="steps in order; the last may be pack: {profile: compact|portable}"),
]
TargetSpec = Annotated[
    str | dict[str, Any],
    Field(description="a shipped profile's name, a YAML file, or a profile written out"),
]


class Config(Strict):
    """One job: compress a source, register its variants, promote the best per target."""

    source: str = Field(
        min_length=1, description="models:/name@alias, models:/name/3, runs:/…, or an .onnx file"
    )
    trust: bool | None = Field(
        default=None,
        description="whether a PyTorch source that is a pickle is loaded, which runs the code in "
        "it; by default a person's `run` does, `retrain` and the webhook do not",
    )
    register_as: str | None = Field(
        default=None,
        pattern=r"^[^/:.%\"']+$",
        max_length=256,
        description="registered model of the variants; by default the source's name and -edge",
    )
    experiment: str | None = Field(default=None, min_length=1, description="by default register_as")
    tracking_uri: str | None = Field(
        default=None,
        description="by default MLFLOW_TRACKING_URI; sqlite:/// paths are relative to here",
    )
    data: DataConfig
    recipe: RecipeSpec | None = Field(
        default=None, description="the only recipe, perhaps with ranges"
    )
    recipes: list[RecipeSpec] | None = Field(
        default=None, min_length=1, description="several recipes"
    )
    search: SearchConfig = SearchConfig()
    targets: list[TargetSpec] = Field(default=[], description="edge targets to promote for")

    @model_validator(mode="after")
    def _one_recipe_key(self) -> "Config":
        if self.recipe is not None and self.recipes is not None:
            raise ValueError("recipe and recipes exclude each other: keep one of them")
        return self


def config_schema() -> dict[str, Any]:
    """Return the JSON schema of ``compress.yaml``, for editors."""
    schema = Config.model_json_schema()
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


def load_config(path: Path, overrides: Iterable[str] = ()) -> Config:
    """Read and check a configuration file.

    Args:
        path: the YAML file.
        overrides: ``KEY=VALUE`` texts; the key is dotted (``search.trials``, ``targets.0``), the
            value is YAML.

    Raises:
        ConfigError: one line with the key's path, the value and what is allowed.
    """
    data = read_yaml(path, overrides)
    config = parse_config(data, str(path))
    return absolute_paths(config, path.resolve().parent)


def parse_config(data: Mapping[str, Any], label: str = "config") -> Config:
    """Check a configuration that is plain data already.

    Raises:
        ConfigError: one line with the key's path, the value and what is allowed.
    """
    return checked(Config, data, label)


def input_specs(inputs: Mapping[str, Mapping[str, Any]]) -> dict[str, InputSpec]:
    """Return the section ``data.inputs`` as records.

    Raises:
        ConfigError: one line with the input, the key and what is allowed.
    """
    checks = {name: checked(InputConfig, one, f"data.inputs.{name}") for name, one in
              inputs.items()}  # fmt: skip
    return {name: InputSpec(**one.model_dump()) for name, one in checks.items()}


def parse_inputs(options: Iterable[str]) -> dict[str, InputSpec]:
    """Return what command-line options say of inputs: ``h0=axis:1,state_of:hn``.

    Raises:
        ConfigError: one line with the option, the key and what is allowed.
    """
    found: dict[str, InputSpec] = {}
    for option in options:
        name, equals, text = option.rpartition("=")
        label = f"--input {option}"
        pairs = [part.partition(":") for part in text.split(",")]
        if not equals or not name or not all(colon for _, colon, _ in pairs):
            raise ConfigError(f"{label}: must be NAME=KEY:VALUE, such as h0=axis:1")
        entry: dict[str, Any] = {}
        for key, _, value in pairs:
            put_once(entry, key.strip(), parse_yaml(value, f"{label}: the value {value!r}"), label)
        parsed = checked(InputConfig, entry, label)
        put_once(found, name, InputSpec(**parsed.model_dump()), label)
    return found


def absolute_paths(config: Config, folder: Path) -> Config:
    """Return the configuration with its relative paths made absolute, from ``folder``."""
    data = config.data
    refs = {role: getattr(data, role) for role in ("calibration", "train", "evaluation")}
    update: dict[str, Any] = {
        role: absolute_ref(ref, folder) for role, ref in refs.items() if ref is not None
    }
    update["metric"] = _absolute_metric(data.metric, folder)
    changes: dict[str, Any] = {"data": data.model_copy(update=update)}
    if not re.match(r"[a-z][a-z0-9+.-]+:/", config.source):
        changes["source"] = absolute_path(config.source, folder)
    folders = {
        key: absolute_path(value, folder)
        for key in ("cache_folder", "checkpoint_folder")
        if (value := getattr(config.search, key)) is not None
    }
    if folders:
        changes["search"] = config.search.model_copy(update=folders)
    changes["tracking_uri"] = absolute_store(config.tracking_uri, folder)
    changes["targets"] = absolute_targets(config.targets, folder)
    return config.model_copy(update=changes)


def absolute_path(path: str, folder: Path) -> str:
    """Return a path of a configuration as it is meant: from the file's folder, or from home."""
    return as_text(folder / from_home(path))


def absolute_store(uri: str | None, folder: Path) -> str | None:
    """Return a tracking URI whose sqlite path, if it has one, is absolute.

    Raises:
        ConfigError: the folder's name would end the path: another file would be the store.
    """
    if uri is not None and uri.startswith(_SQLITE) and uri != f"{_SQLITE}:memory:":
        if "?" in str(folder) and not Path(uri.removeprefix(_SQLITE)).is_absolute():
            raise ConfigError(
                f"tracking_uri {uri!r}: the folder {str(folder)!r} has a '?' in its name, which a "
                "store's address cannot hold: rename it, or write another absolute path"
            )
        return _SQLITE + as_text(folder / uri.removeprefix(_SQLITE))
    return uri


def absolute_targets(targets: Iterable[TargetSpec], folder: Path) -> list[TargetSpec]:
    """Return targets of which those that are files, or extend one, have absolute paths."""
    return [_absolute_target(target, folder) for target in targets]


def _absolute_target(target: TargetSpec, folder: Path) -> TargetSpec:
    if isinstance(target, str):
        return absolute_path(target, folder) if _is_file(target) else target
    parent = target.get("extends")
    if isinstance(parent, str) and _is_file(parent):
        return {**target, "extends": absolute_path(parent, folder)}
    return target


def absolute_ref(value: str | DataRef, folder: Path) -> DataRef:
    """Return a data reference whose path, if it has one, is absolute."""
    ref = DataConfig.ref(value)
    is_file = ":" not in ref.path or Path(ref.path).suffix in (".npz", ".csv", ".parquet")
    to = absolute_path(ref.path, folder) if is_file else absolute_function(ref.path, folder)
    return ref.model_copy(update={"path": to})


def absolute_function(name: str, folder: Path) -> str:
    """Return ``file.py:function`` with the file's absolute path; any other name as it is."""
    place, _, function = name.rpartition(":")
    return f"{absolute_path(place, folder)}:{function}" if place.endswith(".py") else name


def _absolute_metric(metric: str | MetricConfig, folder: Path) -> str | MetricConfig:
    if isinstance(metric, str):
        return absolute_function(metric, folder)
    return metric.model_copy(update={"name": absolute_function(metric.name, folder)})


def _is_file(target: str) -> bool:
    return "/" in target or target.endswith((".yaml", ".yml"))
