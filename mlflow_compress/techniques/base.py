"""What a technique is: settings, a place in the order, and one transform.

A technique is lossy, takes a model and returns a new one, and knows nothing of search or MLflow.
Its settings are a frozen dataclass with real types; nothing heavy is imported to validate them.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Protocol, TypeVar

from mlflow_compress.base.settings import (
    at_least,
    between,
    check_choices,
    one_of,
    parse,
    plain_settings,
)
from mlflow_compress.base.spelling import closest
from mlflow_compress.errors import ConfigError, TechniqueError

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


def parse_settings(technique: Technique[S], values: Mapping[str, Any]) -> S:
    """Build a technique's settings from plain data.

    Raises:
        ConfigError: an unknown key, a value of the wrong type or out of range; the message
            names ``technique.key``, the value and what is allowed.
    """
    return parse(technique.name, technique.settings, values)
