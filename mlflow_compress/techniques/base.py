"""What a technique is: settings, a place in the order, and one transform.

A technique is lossy, takes a model and returns a new one, and knows nothing of search or MLflow.
Its settings are a frozen dataclass with real types; nothing heavy is imported to validate them.
"""

import dataclasses
import types
import typing
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Literal, Protocol, TypeVar

from mlflow_compress.base.bounds import COUNT
from mlflow_compress.base.spelling import closest
from mlflow_compress.errors import ConfigError, TechniqueError, shown

if TYPE_CHECKING:
    import numpy as np
    import onnx

    from mlflow_compress.techniques.data import Epoch, TrainData

__all__ = [
    "Context",
    "OrderError",
    "Phase",
    "Result",
    "Subnets",
    "Technique",
    "at_least",
    "between",
    "check_choices",
    "closest",
    "one_of",
    "parse_settings",
    "plain_settings",
]

S = TypeVar("S")


class OrderError(TechniqueError, ConfigError):
    """The steps of a recipe are in an order that makes no sense (exit 2)."""


class Phase(IntEnum):
    """Where a technique belongs in a recipe: phases must not go back from step to step.

    Two techniques of the phases ``SHARE`` or ``QUANTIZE`` never follow one another within the
    same phase: the second would undo the first. ``REPAIR`` may stand behind any lossy step but
    ``TRIM``, which makes nothing but the file smaller.
    """

    FOLD = 0
    STRUCTURE = 10
    EQUALIZE = 20
    PRUNE = 30
    SHARE = 40
    QUANTIZE = 50
    TRIM = 60
    REPAIR = 70


class Subnets(Protocol):
    """What a source can do that holds many networks in one (:mod:`mlflow_compress.nas`)."""

    def take(
        self, wanted: "Mapping[str, int | str]", inputs: "Mapping[str, np.ndarray]"
    ) -> "onnx.ModelProto":
        """Return one of the networks, for the same rows as the source.

        Args:
            wanted: ``subnet``, the text of one; or bounds of ``resolution``, ``kernel``, ``depth``
                and ``width``, of which the largest network within is taken.
            inputs: unlabelled rows to recalibrate batch normalisation on.

        Raises:
            ConfigError: there is no such network.
        """


@dataclass(frozen=True)
class Context:
    """What a technique may use besides the model.

    Attributes:
        calibration: unlabelled inputs by input name, arrays of [rows, ...], or
            :class:`mlflow_compress.rows.Rows`, which know how the model takes them and split them
            into calls; None when there are none. A technique that needs them refuses by name.
        seed: seeds everything random.
        work_dir: a folder for temporary files; None means the system's.
        train: rows to train on; techniques that can train do so when they are there.
        source: the model before the first step, which teaches every training; None means the
            model that a technique is given.
        reference: the model before the first lossy step, whose values have the names that they
            have in the model that a technique is given; None means that there was no such step.
        on_epoch: hears of every epoch of a training.
        checkpoints: a folder that outlives the process, so that a training that was killed goes
            on where it was; None keeps none.
        subnets: what takes smaller networks out of the source; None when it is one network.
    """

    calibration: "Mapping[str, np.ndarray] | None" = None
    seed: int = 0
    work_dir: Path | None = None
    train: "TrainData | None" = None
    source: "onnx.ModelProto | None" = None
    reference: "onnx.ModelProto | None" = None
    on_epoch: "Callable[[Epoch], None] | None" = None
    checkpoints: Path | None = None
    subnets: "Subnets | None" = None


@dataclass(frozen=True)
class Result:
    """What a technique made.

    Attributes:
        model: a new model; the one passed in is not changed.
        origin: for each initializer that is new, the initializer of the input model that it
            comes from (``fc1.weight_quantized`` → ``fc1.weight``). Unchanged names are left out.
        notes: what a person should know, one sentence each.
    """

    model: "onnx.ModelProto"
    origin: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


class Technique(ABC, Generic[S]):
    """One transform. Subclasses set the class attributes and implement :meth:`apply`.

    Attributes:
        name: the word used in recipes.
        settings: a frozen dataclass; its ``__post_init__`` raises ConfigError on bad values.
            A field with ``metadata={"telling": True}`` stays in a recipe even at its default.
        phase: its place in the order.
        space: a sensible search space by setting: a list of choices, or
            ``{"low": …, "high": …}`` (with ``"log": True`` or ``"step": …``).
    """

    name: ClassVar[str]
    settings: type[S]
    phase: ClassVar[Phase]
    space: ClassVar[Mapping[str, Any]] = {}

    def needs_calibration(self, settings: S) -> bool:
        """Whether :meth:`apply` refuses to work without calibration inputs."""
        return False

    def uses_calibration(self, settings: S) -> bool:
        """Whether :meth:`apply` looks at calibration inputs where there are some."""
        return self.needs_calibration(settings)

    def needs_training(self, settings: S) -> bool:
        """Whether :meth:`apply` refuses to work without training data."""
        return False

    def trains(self, settings: S) -> bool:
        """Whether :meth:`apply` trains, for ``epochs``, where there are rows to train on."""
        return self.needs_training(settings) or bool(getattr(settings, "epochs", 0))

    def needs_modules(self, settings: S, *, trains: bool) -> Mapping[str, str]:
        """Return what :meth:`apply` imports beyond the base install.

        Args:
            settings: of the step.
            trains: whether it is going to train.

        Returns:
            By module, what pip installs it by.
        """
        return {"torch": "mlflow-compress[torch]"} if trains else {}

    @abstractmethod
    def apply(self, model: "onnx.ModelProto", settings: S, context: Context) -> Result:
        """Transform a normalised model.

        Raises:
            TechniqueError: the model cannot be handled; names the node or tensor and the reason.
        """


def between(key: str, value: float, low: float, high: float) -> None:
    """Raise ConfigError unless ``low <= value <= high``; offers the percentage as a fraction."""
    if low <= value <= high:
        return
    hint = ""
    if high <= 1 and low <= value / 100 <= high:
        hint = f" (did you mean {value / 100:g}?)"
    raise ConfigError(f"{key} must be between {low:g} and {high:g}, got {value!r}{hint}")


def at_least(key: str, value: float, low: float) -> None:
    """Raise ConfigError unless ``value >= low``, and no count of anything that there is."""
    if not value >= low:
        raise ConfigError(f"{key} must be at least {low:g}, got {value!r}")
    if value > COUNT.most:
        raise ConfigError(f"{key} must be at most {COUNT.most:,}, got {shown(value)}")


def one_of(key: str, value: object, allowed: Iterable[object]) -> None:
    """Raise ConfigError unless ``value`` is among ``allowed``."""
    allowed = list(allowed)
    if value not in allowed:
        listed = ", ".join(str(item) for item in allowed)
        raise ConfigError(
            f"{key} must be one of {listed}, got {value!r}{closest(str(value), map(str, allowed))}"
        )


def check_choices(technique: str, settings: Any) -> None:
    """Raise ConfigError when a ``Literal`` field of a settings dataclass holds anything else."""
    for key, hint in typing.get_type_hints(type(settings)).items():
        if typing.get_origin(hint) is Literal:
            one_of(f"{technique}.{key}", getattr(settings, key), typing.get_args(hint))


def parse_settings(technique: Technique[S], values: Mapping[str, Any]) -> S:
    """Build a technique's settings from plain data.

    Raises:
        ConfigError: an unknown key, a value of the wrong type or out of range; the message
            names ``technique.key``, the value and what is allowed.
    """
    cls: Any = technique.settings
    hints = _hints(cls)
    names = [item.name for item in dataclasses.fields(cls)]
    parsed: dict[str, Any] = {}
    for key, value in values.items():
        if key not in names:
            raise ConfigError(
                f"{technique.name}.{key}: no such setting{closest(str(key), names)}; "
                f"{technique.name} knows {', '.join(names) or 'none'}"
            )
        parsed[key] = _coerce(f"{technique.name}.{key}", value, hints[key])
    made: S = cls(**parsed)
    return made


@lru_cache
def _hints(cls: type) -> Mapping[str, Any]:
    """Return the types of a settings class; a search parses settings for every point it draws."""
    return typing.get_type_hints(cls)


def plain_settings(settings: Any) -> dict[str, Any]:
    """Return settings as plain data in canonical form: defaults left out, unless telling."""
    plain: dict[str, Any] = {}
    for item in dataclasses.fields(settings):
        value = getattr(settings, item.name)
        if value != item.default or item.metadata.get("telling"):
            plain[item.name] = list(value) if isinstance(value, tuple) else value
    return plain


def _coerce(key: str, value: Any, hint: Any) -> Any:
    """Return ``value`` as the type of ``hint``; JSON and YAML know no tuples and mix 1 and 1.0."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        return value  # the settings check their choices themselves
    if origin in (types.UnionType, typing.Union):
        if value is None and type(None) in args:
            return None
        return _coerce(key, value, next(arg for arg in args if arg is not type(None)))
    if origin is tuple:
        if isinstance(value, str) or not isinstance(value, list | tuple):
            raise ConfigError(f"{key} must be a list, got {value!r}")
        return tuple(_coerce(key, item, args[0]) for item in value)
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if is_number and isinstance(value, int) and value.bit_length() > 63:
        raise ConfigError(f"{key} must be a number of at most 64 bits, got {shown(value)}")
    if hint is float and is_number:
        return float(value)
    if hint is int and is_number and float(value).is_integer():
        return int(value)
    if hint in (bool, str) and isinstance(value, hint):
        return value
    kind = {float: "a number", int: "a whole number", bool: "true or false", str: "a text"}
    raise ConfigError(f"{key} must be {kind.get(hint, hint)}, got {value!r}")
