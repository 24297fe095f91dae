"""The YAML of a target, checked: unknown keys refused, units parsed, one line per error."""

from collections.abc import Callable, Mapping
from typing import Annotated, Any

from packaging.specifiers import InvalidSpecifier, SpecifierSet
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    Field,
    ValidationError,
    model_validator,
)

from mlflow_compress.base import bounds
from mlflow_compress.base.spelling import closest, hint
from mlflow_compress.base.strict import Strict
from mlflow_compress.errors import ConfigError
from mlflow_compress.records import LOCAL, MEASURES, Place
from mlflow_compress.targets.dtypes import DTYPES
from mlflow_compress.targets.units import parse_ms, parse_size

__all__ = ["TargetSchema", "check_target"]


def _fraction(value: object) -> float:
    """Accept 0 to 1; for anything that looks like a percentage say what was likely meant."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"must be a number between 0 and 1, got {value!r}")
    if not 0 <= value <= 1:
        hint = f" (did you mean {value / 100:g}?)" if 1 < value <= 100 else ""
        raise ValueError(f"must be between 0 and 1, got {value!r}{hint}")
    return float(value)


def _number(value: object) -> object:
    """Refuse yes and no, which would count as 1 and 0."""
    if isinstance(value, bool):
        raise ValueError(f"must be a number, got {value!r}")
    return value


def _measures(bounds: dict[str, float]) -> dict[str, float]:
    for name in bounds:
        if name not in MEASURES:
            raise ValueError(f"names no measure: {name!r} ({hint(name, MEASURES)})")
    return bounds


def _one_of(*allowed: str) -> Callable[[object], object]:
    def check(value: object) -> object:
        if value not in allowed:
            near = closest(str(value), allowed)
            raise ValueError(f"must be one of {', '.join(allowed)}, got {value!r}{near}")
        return value

    return check


def _place(value: object) -> str:
    if not isinstance(value, str) or not (
        value == LOCAL or (not Place(value).is_local and len(value) > 6)
    ):
        raise ValueError(f"must be local, ssh://user@host or cmd:<template>, got {value!r}")
    return value


def _versions(value: object) -> object:
    try:
        SpecifierSet(value if isinstance(value, str) else "?")
    except InvalidSpecifier:
        raise ValueError(f"must be versions such as '>=1.17', got {value!r}") from None
    return value


Size = Annotated[int, BeforeValidator(parse_size)]
Milliseconds = Annotated[float, BeforeValidator(parse_ms)]
Fraction = Annotated[float, BeforeValidator(_fraction)]
Number = Annotated[float, BeforeValidator(_number)]
NotNegative = Annotated[Number, Field(ge=0)]
PackedProfile = Annotated[str, BeforeValidator(_one_of("portable", "compact"))]
TensorType = Annotated[str, BeforeValidator(_one_of(*DTYPES.values()))]
Goal = Annotated[str, BeforeValidator(_one_of("size", "latency", "accuracy", "rate", "reward"))]


CONFIDENCE = 0.95
"""Level of the intervals whose worse end is limited, where a target names none."""


class LimitsSchema(Strict):
    """Upper limits; each has a unit."""

    size: Size | None = Field(default=None, description="bytes of the variant's file, e.g. 60kB")
    latency_p50: Milliseconds | None = Field(
        default=None, description="median time per call, e.g. 15ms"
    )
    latency_p95: Milliseconds | None = Field(default=None, description="95th percentile, e.g. 30ms")
    memory: Size | None = Field(default=None, description="peak resident memory, e.g. 256MB")


class AccuracySchema(Strict):
    """How good a variant has to be."""

    min: Number | None = Field(
        default=None,
        description="least value of a metric where more is better: 0 to 1 of a share, else in its "
        "unit",
    )
    max_drop: NotNegative | None = Field(
        default=None,
        description="largest drop from the source: 0 to 1 of a share, else in the metric's unit",
    )
    confidence: Annotated[Number, Field(gt=0.5, lt=1)] | None = Field(
        default=CONFIDENCE,
        description="limit the worse end of the interval at this level; null limits the number",
    )
    min_agreement: Fraction | None = Field(
        default=None, description="least share of rows with the source's class, 0 to 1"
    )
    max_kl: NotNegative | None = Field(
        default=None, description="largest KL divergence of classes, nats"
    )
    max_error: NotNegative | None = Field(
        default=None, description="largest error of values, over the variance of the source's"
    )
    min_cosine: Annotated[Number, Field(ge=-1, le=1)] | None = Field(
        default=None, description="least mean cosine of embeddings, -1 to 1"
    )
    min_map: Fraction | None = Field(
        default=None, description="least mean average precision against the source's boxes, 0 to 1"
    )
    max_edits: NotNegative | None = Field(
        default=None, description="most edits per symbol of sequences"
    )
    limits: dict[str, Annotated[dict[str, Number], AfterValidator(_measures)]] = Field(
        default={}, description="of one output: bounds by measure, such as boxes: {recall: 0.98}"
    )
    max: NotNegative | None = Field(
        default=None, description="largest value of an error such as rmse or cer, in its unit"
    )


class ExecutionSchema(Strict):
    """What the device runs models with."""

    runtime: str = "onnxruntime"
    runtime_version: Annotated[str, BeforeValidator(_versions)] | None = None
    providers: list[str] = Field(default=["CPUExecutionProvider"], min_length=1)
    threads: int = Field(default=1, ge=1, le=bounds.THREADS.most)
    profiles: list[PackedProfile] = Field(default=["portable", "compact"], min_length=1)
    opset: int | None = Field(default=None, ge=7, le=1000)
    dtypes: list[TensorType] = Field(default=[])
    without_operators: list[str] = Field(default=[])
    cores: int | None = Field(default=None, ge=1, le=bounds.THREADS.most)
    memory: Size | None = Field(default=None, description="RAM of the device, e.g. 1GB")


class RewardSchema(Strict):
    """Parameters of ``objective: reward``: accuracy * (latency / T) ** w."""

    latency: Milliseconds
    weight: Annotated[float, Field(le=0, ge=-1)] = -0.07


class TargetSchema(Strict):
    """One edge target."""

    name: str = Field(min_length=1)
    description: str = ""
    limits: LimitsSchema = LimitsSchema()
    accuracy: AccuracySchema = AccuracySchema()
    objective: Goal = "size"
    reward: RewardSchema | None = None
    execution: ExecutionSchema = ExecutionSchema()
    measured_on: Annotated[str, BeforeValidator(_place)] = "local"
    min_improvement: Fraction = 0.01

    @model_validator(mode="after")
    def _fits_together(self) -> "TargetSchema":
        bounds = self.accuracy
        if (self.objective == "reward") != (self.reward is not None):
            raise ValueError(
                "objective 'reward' and the section 'reward' (latency, weight) go together"
            )
        said = bounds.model_dump(exclude={"confidence"}, exclude_defaults=True)
        if self.objective not in ("accuracy", "reward") and not said:
            raise ValueError(
                f"objective {self.objective!r} with no accuracy limit would promote the smallest "
                "wrong model: set accuracy.max_drop, min, min_agreement, max_error or another "
                "(docs/judging.md)"
            )
        return self


# Sections whose keys say all by themselves: `max_drop`, not `accuracy.max_drop`.
_PLAIN_SECTIONS = ("accuracy", "limits")


def _one_line(error: ValidationError) -> str:
    """Turn pydantic's first finding into one line with the key, the value and the rule."""
    first = error.errors(include_url=False)[0]
    where = [str(part) for part in first["loc"]]
    key = ".".join(where[1:] if len(where) > 1 and where[0] in _PLAIN_SECTIONS else where)
    kind, context = first["type"], first.get("ctx", {})
    if kind == "extra_forbidden":
        names = _keys_at(where[:-1])
        return f"unknown key '{'.'.join(where)}' ({hint(where[-1], names, 'known keys: ')})"
    if kind == "value_error":
        return f"{key} {context['error']}" if key else str(context["error"])
    if kind == "missing":
        return f"{key} is missing"
    if kind == "model_type":
        return f"{key} must be a mapping of keys, got {first['input']!r}"
    if kind == "too_short":
        return f"{key} must not be empty"
    rule = first["msg"][0].lower() + first["msg"][1:]
    rule = rule.replace("input should", "must")
    return f"{key} {rule}, got {first['input']!r}"


def _keys_at(path: list[str]) -> list[str]:
    sections: dict[str, type[BaseModel]] = {
        "limits": LimitsSchema,
        "accuracy": AccuracySchema,
        "execution": ExecutionSchema,
        "reward": RewardSchema,
    }
    return list((sections[path[0]] if path else TargetSchema).model_fields)


def check_target(data: Mapping[str, Any]) -> TargetSchema:
    """Validate a target's plain data.

    Args:
        data: the keys of one target, with ``extends`` already resolved.

    Raises:
        ConfigError: one line that names the target, the key and the value.
    """
    name = data.get("name")
    label = f"target {name!r}" if isinstance(name, str) else "target"
    try:
        # A section set to null takes all of its inherited keys back.
        return TargetSchema.model_validate({k: v for k, v in data.items() if v is not None})
    except ValidationError as error:
        raise ConfigError(f"{label}: {_one_line(error)}") from None
