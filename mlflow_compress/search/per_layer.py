"""Techniques with one value per layer: ``prune_layers``, ``share_layers``, ``weight_only_layers``.

Each is a technique run once per value on the layers that have it, everything else excluded. So
one recipe, and one point of a space, says what becomes of every layer.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar

from mlflow_compress.base.once import put_once
from mlflow_compress.base.spelling import closest
from mlflow_compress.base.yaml_text import parse_yaml
from mlflow_compress.errors import ConfigError, TechniqueError
from mlflow_compress.techniques import Context, Phase, Result, Technique
from mlflow_compress.techniques.base import parse_settings

if TYPE_CHECKING:
    import onnx

__all__ = ["PRUNE", "SHARE", "WEIGHT_ONLY", "PerLayer", "PerLayerSettings", "layers_by_pattern"]


@dataclass(frozen=True)
class PerLayerSettings:
    """Settings of a technique with one value per layer.

    Attributes:
        layers: ``pattern=value`` pairs with commas between, such as ``fc1.weight=8, fc2*=16``. A
            pattern is a weight's name, with ``*`` for anything; the first that fits counts, and
            layers that none fits are left alone.
        options: further settings of the technique in the same form, such as ``repair=true``.
    """

    layers: str = field(default="", metadata={"telling": True})
    options: str = ""

    base: ClassVar[str]
    setting: ClassVar[str]
    fixed: ClassVar[Mapping[str, Any]] = {}

    def __post_init__(self) -> None:
        if not self.pairs():
            raise ConfigError(
                f"{self.base}_layers.layers must name a value for at least one layer, such as "
                "fc1.weight=8"
            )
        for value in self.pairs().values():
            self.settings_of(value)

    def pairs(self) -> Mapping[str, Any]:
        """Return the values by pattern, in order."""
        return _pairs(f"{self.base}_layers.layers", self.layers)

    def settings_of(self, value: Any, exclude: tuple[str, ...] = ()) -> Any:
        """Return the technique's settings for the layers of one value.

        Raises:
            ConfigError: the technique does not take the value or an option.
        """
        options = _pairs(f"{self.base}_layers.options", self.options)
        given = {**self.fixed, **options, self.setting: value, "exclude": list(exclude)}
        return parse_settings(_technique(self.base), given)


@dataclass(frozen=True)
class PruneLayers(PerLayerSettings):
    """Of ``prune_layers``: a sparsity per layer."""

    base, setting, fixed = "prune", "sparsity", MappingProxyType({"scope": "layer"})


@dataclass(frozen=True)
class ShareLayers(PerLayerSettings):
    """Of ``share_layers``: a number of clusters per layer."""

    base, setting, fixed = "share", "clusters", MappingProxyType({"biases": False})


@dataclass(frozen=True)
class WeightOnlyLayers(PerLayerSettings):
    """Of ``weight_only_layers``: a number of bits per layer."""

    base, setting = "weight_only", "bits"


def _pairs(key: str, text: str) -> Mapping[str, Any]:
    found: dict[str, Any] = {}
    for part in filter(None, map(str.strip, text.split(","))):
        name, equals, value = part.rpartition("=")
        if not equals or not name:
            raise ConfigError(f"{key} must be name=value pairs with commas between, got {part!r}")
        put_once(found, name.strip(), parse_yaml(value, f"{key}: {part!r}"), key)
    return found


class PerLayer(Technique[PerLayerSettings]):
    """Runs another technique once per value.

    Args:
        settings: which technique, and which of its settings has a value per layer.
        phase: the technique's place in a recipe.
    """

    settings = PerLayerSettings

    def __init__(self, settings: type[PerLayerSettings], phase: Phase) -> None:
        self.name = f"{settings.base}_layers"  # type: ignore[misc]
        self.settings, self.phase = settings, phase  # type: ignore[misc]

    def needs_calibration(self, settings: PerLayerSettings) -> bool:
        """As the technique itself."""
        base = _technique(settings.base)
        made = [settings.settings_of(value) for value in settings.pairs().values()]
        return any(base.needs_calibration(one) for one in made)

    def apply(
        self, model: "onnx.ModelProto", settings: PerLayerSettings, context: Context
    ) -> Result:
        """Run the technique on the layers of each value.

        There is no training: it would change the layers that are done already.

        Raises:
            TechniqueError: a pattern fits no layer.
        """
        base = _technique(settings.base)
        context = replace(context, train=None)
        chosen = _assign(_names(model, settings.base), settings.pairs())
        origin: dict[str, str] = {}
        notes: list[str] = []
        for value in dict.fromkeys(chosen.values()):
            held = _names(model, settings.base)
            rest = tuple(name for name in held if chosen.get(name) != value)
            result = base.apply(model, settings.settings_of(value, rest), context)
            model = result.model
            origin |= {new: origin.get(old, old) for new, old in result.origin.items()}
            notes += result.notes
        return Result(model, origin, tuple(notes))


def _technique(name: str) -> Technique[Any]:
    from mlflow_compress.techniques import get

    return get(name)


def _names(model: "onnx.ModelProto", base: str) -> list[str]:
    """Return the tensors that a technique works on, which are those it can be told to exclude."""
    from onnx import TensorProto

    from mlflow_compress.techniques.graph.walk import float_weights
    from mlflow_compress.techniques.share.onnx import embedding_tensors

    if base == "share":
        weights = [weight.name for weight in float_weights(model)]
        return weights + [tensor.name for tensor in embedding_tensors(model)]
    weights = []
    for weight in float_weights(model, min_size=64):
        if base != "weight_only" or weight.tensor.data_type == TensorProto.FLOAT:
            weights.append(weight.name)
    return weights


def layers_by_pattern(
    model: "onnx.ModelProto", base: str, patterns: Sequence[str]
) -> Mapping[str, str]:
    """Return the pattern of each layer that a technique works on: the first that fits.

    Raises:
        TechniqueError: a pattern fits no layer.
    """
    return _assign(_names(model, base), {pattern: pattern for pattern in patterns})


def _assign(names: Sequence[str], pairs: Mapping[str, Any]) -> dict[str, Any]:
    """Return each layer's value by the first pattern that fits."""
    for pattern in pairs:
        if not any(fnmatchcase(name, pattern) for name in names):
            raise TechniqueError(
                f"no layer is called {pattern!r}{closest(pattern, names)}; there are "
                f"{', '.join(names[:8])}{', …' if len(names) > 8 else ''}"
            )
    chosen: dict[str, Any] = {}
    for name in names:
        for pattern, value in pairs.items():
            if fnmatchcase(name, pattern):
                chosen[name] = value
                break
    return chosen


PRUNE = PerLayer(PruneLayers, Phase.PRUNE)
SHARE = PerLayer(ShareLayers, Phase.SHARE)
WEIGHT_ONLY = PerLayer(WeightOnlyLayers, Phase.QUANTIZE)
