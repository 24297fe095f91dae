"""Edge device profiles: what a target can run, its limits, its objective."""

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, Field, dataclass, field, fields, is_dataclass
from importlib import resources
from pathlib import Path
from typing import Any, Literal, cast

from mlflow_compress.base.plugins import Group
from mlflow_compress.base.spelling import hint
from mlflow_compress.base.yaml_text import read_yaml_file
from mlflow_compress.errors import ConfigError
from mlflow_compress.records import LOCAL, Kind, Place
from mlflow_compress.targets.schema import TargetSchema, check_target

__all__ = [
    "FIDELITY_BOUNDS",
    "AccuracyLimits",
    "Execution",
    "Limits",
    "Objective",
    "Reward",
    "Target",
    "alias_problem",
    "load_target",
    "shipped_names",
    "target_data",
    "target_record",
    "target_text",
]

Objective = Literal["size", "latency", "accuracy", "rate", "reward"]

PREVIOUS = "-previous"
# MLflow takes keys of tags up to 250 characters. The longest that is made of a target's name is
# that of a quarantine on the registered model, ``compress.quarantine.<name>.<16 digits>``.
_LONGEST = 250 - len("compress.quarantine.") - len(".0123456789abcdef")

LATER: Mapping[str, bool] = {"later": True}
"""Marks a field that profiles got after decisions on targets were first written down. Where it is
not set it is left out of what is written, so that a target stays the one that it was."""

LOCAL_PROVIDERS = ("CPUExecutionProvider",)
"""What models run on where this machine measures them."""


def alias_problem(name: str) -> str | None:
    """Say why ``name`` cannot be a target, which is an MLflow alias, or None when it can.

    Args:
        name: the target's name.
    """
    if not re.fullmatch(r"[\w\-]+", name):
        return "only letters, digits, '_' and '-' are allowed in an alias"
    if len(name) > _LONGEST:
        return (
            f"it may have at most {_LONGEST} characters, so that it fits tags, this has {len(name)}"
        )
    if name.lower() == "latest" or re.fullmatch(r"v\d+", name, re.IGNORECASE):
        return "MLflow reserves this alias"
    if name.endswith(PREVIOUS):
        return f"names ending in '{PREVIOUS}' are kept for rollback"
    return None


@dataclass(frozen=True)
class Limits:
    """Upper limits of a device; None is no limit.

    Attributes:
        size_bytes: bytes of the variant's file.
        latency_p50_ms: median milliseconds per call.
        latency_p95_ms: 95th percentile of milliseconds per call.
        memory_bytes: peak resident memory of a process that runs the variant.
    """

    size_bytes: int | None = None
    latency_p50_ms: float | None = None
    latency_p95_ms: float | None = None
    memory_bytes: int | None = None


FIDELITY_BOUNDS: Mapping[str, tuple[str, tuple[Kind, ...]]] = {
    "agreement": ("min_agreement", ("classes",)),
    "kl": ("max_kl", ("classes",)),
    "error": ("max_error", ("values", "state")),
    "cosine": ("min_cosine", ("embedding",)),
    "map": ("min_map", ("boxes",)),
    "edits": ("max_edits", ("sequence",)),
}
"""By measure: the key of :class:`AccuracyLimits` that bounds it, and of which kinds of outputs."""


@dataclass(frozen=True)
class AccuracyLimits:
    """How good a variant has to be; None is no limit.

    An output that none of them speaks of keeps the default of its kind.

    Attributes:
        min: least value of a metric where more is better: 0 to 1 of a share, else in its unit.
        max_drop: largest drop from the source on the same rows, likewise.
        confidence: when set, the worse end of a number's interval at this level is what is
            limited, not the number itself.
        min_agreement: least share of rows with the source's class, of each output of classes.
        max_kl: largest mean KL divergence from the source's, nats, of each output of classes.
        max_error: largest normalised error of each output of values, and of states.
        min_cosine: least mean cosine similarity of each embedding.
        min_map: least mean average precision against the source's own boxes.
        max_edits: most edits per symbol of each sequence.
        limits: by output and measure, bounds on that output.
        max: largest value of a metric that is an error, in its own unit.
    """

    min: float | None = None
    max_drop: float | None = None
    confidence: float | None = None
    min_agreement: float | None = None
    max_kl: float | None = None
    max_error: float | None = field(default=None, metadata=LATER)
    min_cosine: float | None = field(default=None, metadata=LATER)
    min_map: float | None = field(default=None, metadata=LATER)
    max_edits: float | None = field(default=None, metadata=LATER)
    limits: Mapping[str, Mapping[str, float]] = field(default_factory=dict, metadata=LATER)
    max: float | None = field(default=None, metadata=LATER)

    @property
    def any(self) -> bool:
        """Whether anything that is said bounds how wrong a variant may be."""
        return (
            self.asks_labels
            or bool(self.limits)
            or any(self.bound_on(measure) is not None for measure in FIDELITY_BOUNDS)
        )

    @property
    def asks_labels(self) -> bool:
        """Whether a limit is on what only labels tell."""
        return any(bound is not None for bound in (self.min, self.max, self.max_drop))

    def bound_on(self, measure: str) -> float | None:
        """Return the bound on a measure of every output that has it, None when there is none."""
        bounds: Mapping[str, float | None] = {
            "agreement": self.min_agreement,
            "kl": self.max_kl,
            "error": self.max_error,
            "cosine": self.min_cosine,
            "map": self.min_map,
            "edits": self.max_edits,
        }
        return bounds[measure]


@dataclass(frozen=True)
class Execution:
    """What a device runs models with.

    Attributes:
        runtime: name of the inference runtime.
        runtime_version: versions of it that will do, such as ``>=1.17``; None when any.
        providers: onnxruntime execution providers, in order of preference.
        threads: threads that a call may use, and that latency is measured with.
        profiles: the packed profiles it can load.
        opset: highest opset of the default ONNX domain it takes, None when any.
        dtypes: tensor types it takes, by ONNX's lower-case names, empty when any.
        without_operators: operators of ONNX that its runtime lacks.
        cores: processor cores of the device, None when it may be any.
        memory_bytes: RAM of the device, None when it may be any.
    """

    runtime: str = "onnxruntime"
    providers: tuple[str, ...] = ("CPUExecutionProvider",)
    threads: int = 1
    profiles: tuple[str, ...] = ("portable", "compact")
    opset: int | None = None
    dtypes: tuple[str, ...] = ()
    without_operators: tuple[str, ...] = ()
    cores: int | None = None
    memory_bytes: int | None = None
    runtime_version: str | None = None


@dataclass(frozen=True)
class Reward:
    """MnasNet's objective ``accuracy * (latency / latency_ms) ** weight`` (section 3, eq. 2).

    Attributes:
        latency_ms: the latency T at which accuracy counts in full.
        weight: the exponent w, not above 0; MnasNet uses -0.07.
    """

    latency_ms: float
    weight: float = -0.07

    def value(self, quality: float, ms: float) -> float:
        """Return the reward of an accuracy (0 to 1) and a latency in milliseconds."""
        return quality * (ms / self.latency_ms) ** self.weight if ms > 0 else math.nan


@dataclass(frozen=True)
class Target:
    """An edge device profile; its name is also the alias that promotion moves.

    Attributes:
        name: the alias.
        limits: upper limits of size, latency and memory.
        accuracy: limits of accuracy and fidelity.
        objective: what is made best among the variants that pass every gate.
        reward: parameters of the objective ``reward``, else None.
        execution: what the device runs models with.
        measured_on: ``local``, ``ssh://user@host`` or ``cmd:<template>``.
        min_improvement: how much better than the incumbent a variant has to be to replace
            it: a fraction of size, rate or latency, points of accuracy (0.01 is one point).
        description: one line for people.
    """

    name: str
    limits: Limits = field(default_factory=Limits)
    accuracy: AccuracyLimits = field(default_factory=AccuracyLimits)
    objective: Objective = "size"
    reward: Reward | None = None
    execution: Execution = field(default_factory=Execution)
    measured_on: str = LOCAL
    min_improvement: float = 0.01
    description: str = ""

    def __post_init__(self) -> None:
        """Refuse a name that MLflow does not take as an alias.

        Raises:
            ConfigError: with the name and the rule it breaks.
        """
        problem = alias_problem(self.name)
        if problem:
            raise ConfigError(f"target {self.name!r}: the name cannot be an alias: {problem}")

    @property
    def place(self) -> Place:
        """Where it is measured."""
        return Place(self.measured_on, self.execution.threads)

    @property
    def emulated(self) -> bool:
        """Whether this machine stands for a device that is described: other numbers hold there."""
        device = self.execution
        described = device.cores is not None or device.memory_bytes is not None
        return self.place.is_local and (described or device.runtime != "onnxruntime")

    @property
    def unmeasured_providers(self) -> tuple[str, ...]:
        """Providers whose numbers are wanted, but measuring on this machine uses the CPU's.

        A target that is measured on a device of its own has none: there its providers are used.
        An emulated one has none either: its numbers are said to be another machine's.
        """
        if not self.place.is_local or self.emulated:
            return ()
        return tuple(one for one in self.execution.providers if one not in LOCAL_PROVIDERS)


def _written(record: Any) -> Iterator[tuple[Field[Any], Any]]:
    """Yield the fields of a target or of a part of it that are written down, with their values."""
    for item in fields(record):
        value = getattr(record, item.name)
        default = item.default if item.default_factory is MISSING else item.default_factory()
        if value != default or "later" not in item.metadata:
            yield item, value


def target_record(target: Target) -> dict[str, Any]:
    """Return a target as plain data, from which ``records.from_dict`` makes it again."""
    return _record(target)


def _record(part: Any) -> dict[str, Any]:
    return {
        item.name: _record(value) if is_dataclass(value) else value
        for item, value in _written(part)
    }


def target_text(target: Target) -> str:
    """Return a target as one text, equal for equal targets in all versions of this package.

    It is what ``repr`` gave when decisions were first written down, which keeps numbers that JSON
    has no word for; later fields are in it where they are set.
    """
    return _text(target)


def _text(part: Any) -> str:
    shown = (
        f"{item.name}={_text(value) if is_dataclass(value) else repr(value)}"
        for item, value in _written(part)
    )
    return f"{type(part).__qualname__}({', '.join(shown)})"


_GROUP = Group("mlflow_compress.targets", "target")


def _shipped() -> dict[str, Path]:
    folder = resources.files("mlflow_compress.targets") / "profiles"
    return {Path(str(item)).stem: Path(str(item)) for item in folder.iterdir()}


def shipped_names() -> tuple[str, ...]:
    """Return the names of all profiles known without a file, sorted."""
    return tuple(sorted({*_shipped(), *_GROUP.names()}))


def load_target(spec: str | Mapping[str, Any], base_dir: str | Path = ".") -> Target:
    """Build a target from a known profile's name, a YAML file, or a mapping.

    Args:
        spec: ``"raspberry-pi-4"``, ``"devices/kiosk.yaml"``, or a mapping of the same keys,
            which takes over another profile's with ``extends: raspberry-pi-4`` (or a file);
            its own keys win, and null removes a limit.
        base_dir: folder that relative paths start from.

    Raises:
        ConfigError: one line with the target, the key, the value and what is allowed.
    """
    return _to_target(check_target(_resolve(spec, Path(base_dir), ())))


def target_data(spec: str | Mapping[str, Any], base_dir: str | Path = ".") -> dict[str, Any]:
    """Return a target's keys as they were written, with what it extends filled in, checked.

    Raises:
        ConfigError: as :func:`load_target`.
    """
    data = _resolve(spec, Path(base_dir), ())
    _to_target(check_target(data))
    return data


def _resolve(
    spec: str | Mapping[str, Any], base_dir: Path, seen: tuple[str, ...]
) -> dict[str, Any]:
    """Read the data behind ``spec`` and merge what it extends."""
    if isinstance(spec, str):
        if spec in seen:
            raise ConfigError(f"target {spec!r} extends itself: {' -> '.join((*seen, spec))}")
        data, base_dir = _read(spec, base_dir)
        seen = (*seen, spec)
    elif isinstance(spec, Mapping):
        data = dict(spec)
    else:
        raise ConfigError(f"a target is a name, a path or a mapping, got {spec!r}")
    parent = data.pop("extends", None)
    if parent is None:
        return data
    if not isinstance(parent, str):
        raise ConfigError(f"target {data.get('name')!r}: extends must be a name, got {parent!r}")
    return _merge(_resolve(parent, base_dir, seen), data)


def _merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in over.items():
        old = merged.get(key)
        both = isinstance(old, Mapping) and isinstance(value, Mapping)
        merged[key] = _merge(old, value) if both else value  # type: ignore[arg-type]
    return merged


def _read(spec: str, base_dir: Path) -> tuple[dict[str, Any], Path]:
    """Return the plain data of a known profile or a YAML file, and where its paths start."""
    shipped = _shipped()
    if spec in shipped:
        path = shipped[spec]
    elif spec in _GROUP:
        loaded = _GROUP.load(spec)
        if isinstance(loaded, Mapping):
            return {"name": spec, **loaded}, base_dir
        path = Path(loaded)
    elif "/" in spec or spec.endswith((".yaml", ".yml")):
        path = base_dir / spec
    else:
        told = hint(spec, shipped_names())
        raise ConfigError(f"unknown target {spec!r} ({told}; or give a path to a .yaml)")
    data = read_yaml_file(path, f"target file {path}")
    return {"name": path.stem, **data}, path.parent


def _to_target(schema: TargetSchema) -> Target:
    limits, accuracy, execution = schema.limits, schema.accuracy, schema.execution
    reward = schema.reward
    return Target(
        name=schema.name,
        limits=Limits(limits.size, limits.latency_p50, limits.latency_p95, limits.memory),
        accuracy=AccuracyLimits(**accuracy.model_dump()),
        objective=cast(Objective, schema.objective),
        reward=Reward(reward.latency, reward.weight) if reward else None,
        execution=Execution(
            runtime=execution.runtime,
            runtime_version=execution.runtime_version,
            providers=tuple(execution.providers),
            threads=execution.threads,
            profiles=tuple(execution.profiles),
            opset=execution.opset,
            dtypes=tuple(execution.dtypes),
            without_operators=tuple(execution.without_operators),
            cores=execution.cores,
            memory_bytes=execution.memory,
        ),
        measured_on=schema.measured_on,
        min_improvement=schema.min_improvement,
        description=schema.description,
    )
