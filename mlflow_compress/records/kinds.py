"""What the rooms hand to each other: plain, frozen, JSON-able records.

Units: sizes in bytes, latencies in milliseconds, times in seconds, accuracies and drops as
fractions (0.01 is one point), entropies in bits per weight, KL divergence in nats.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from mlflow_compress.records.basics import DatasetRef, Interval
from mlflow_compress.records.outputs import Fidelity
from mlflow_compress.records.place import Place
from mlflow_compress.records.plain import OMITTED, canonical_json, digest_of, to_dict

__all__ = [
    "Accuracy",
    "Decision",
    "Gate",
    "Latency",
    "LayerReport",
    "Memory",
    "Needs",
    "OperatorTime",
    "Profile",
    "Recipe",
    "Report",
    "StageReport",
    "Step",
    "Trial",
    "Variant",
]

Profile = Literal["portable", "compact"]


@dataclass(frozen=True)
class Step:
    """One technique of a recipe with its settings as plain data."""

    technique: str
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def label(self) -> str:
        """A short text a person can read: the technique and its telling settings."""
        values = [
            f"{value:g}" if isinstance(value, float) else str(value)
            for value in self.settings.values()
            if not isinstance(value, bool | dict | list) and value is not None
        ]
        return " ".join([self.technique, *values])


@dataclass(frozen=True)
class Recipe:
    """An ordered list of techniques with their settings, then packing in one profile."""

    steps: tuple[Step, ...] = ()
    profile: Profile = "compact"

    @property
    def label(self) -> str:
        """For example ``prune 0.9 · share 16`` (the portable profile is named, compact is not)."""
        parts = [step.label for step in self.steps] or ["lossless"]
        if self.profile != "compact":
            parts.append(self.profile)
        return " · ".join(parts)

    def to_json(self) -> str:
        """Return the canonical JSON of the recipe; equal recipes give equal text."""
        return canonical_json(to_dict(self))

    @property
    def digest(self) -> str:
        """The sha256 of :meth:`to_json`."""
        return digest_of(to_dict(self))


@dataclass(frozen=True)
class LayerReport:
    """One weight tensor of the source and what became of it in the variant.

    Attributes:
        name: the initializer's name in the source.
        shape: its shape in the source.
        dtype: what it is stored as in the variant (``float32``, ``int8``, …).
        encoding: how the packed file codes it (``raw``, ``huffman``, ``codebook``, ``gaps``, …).
        source_bytes: bytes of the tensor as stored in the source.
        packed_bytes: bytes the variant spends on it, tables and scales included.
        sparsity: share of exact zeros, 0 to 1.
        distinct: number of distinct values.
        entropy: Shannon entropy (order 0) of its values, bits per weight.
        bits_spent: 8 * packed_bytes / number of weights, bits per weight.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    encoding: str
    source_bytes: int
    packed_bytes: int
    sparsity: float
    distinct: int
    entropy: float
    bits_spent: float

    @property
    def rate(self) -> float:
        """Compression rate of this layer: a high one shows a redundant layer."""
        return self.source_bytes / self.packed_bytes if self.packed_bytes else float("inf")

    @property
    def redundancy(self) -> float:
        """Bits per weight spent beyond the entropy: the KL divergence of the data from the code."""
        return self.bits_spent - self.entropy


@dataclass(frozen=True)
class StageReport:
    """The model after one stage of the recipe (source, pruned, + shared, + Huffman …).

    ``bytes`` is the size of the weights in the most natural storage of that stage, and
    ``entropy`` the mean bits per weight over all weight tensors.
    """

    name: str
    bytes: int
    rate: float
    sparsity: float
    entropy: float


@dataclass(frozen=True)
class Accuracy:
    """A metric of variant and source on the *same* rows, and the paired drop between them.

    Attributes:
        metric: its name.
        value: the variant's.
        source: the source's.
        drop: by how much the variant is worse, whichever way the metric goes.
        drop_interval: the drop's confidence interval.
        dataset: the rows.
        higher_is_better: False for errors, such as ``cer`` and ``rmse``.
        unit: ``share`` (0 to 1, shown as % and its drop in points), ``points`` (of a hundred), any
            other text, such as ``dB``, or empty for a plain number.
        output: the output that was scored, several separated by commas; empty when unknown.
        interval: the value's own confidence interval; None in records that came before it.
    """

    metric: str
    value: float
    source: float
    drop: float
    drop_interval: Interval
    dataset: DatasetRef
    higher_is_better: bool = True
    unit: str = field(default="share", metadata=OMITTED)
    output: str = field(default="", metadata=OMITTED)
    interval: Interval | None = field(default=None, metadata=OMITTED)

    @property
    def range(self) -> tuple[float, float]:
        """The least and the largest value that there can be, for checks of stored numbers."""
        if self.unit != "share":
            return -math.inf, math.inf
        return 0.0, 1.0 if self.higher_is_better else math.inf  # a rate of errors may exceed 1

    @property
    def largest_drop(self) -> float:
        """The largest drop that there can be, and the largest gain."""
        low, high = self.range
        return high - low

    @property
    def score(self) -> float:
        """The value where more is better; of an error, 1 minus it."""
        return self.value if self.higher_is_better else 1.0 - self.value

    @property
    def source_score(self) -> float:
        """The source's :attr:`score`."""
        return self.source if self.higher_is_better else 1.0 - self.source


@dataclass(frozen=True)
class Latency:
    """Milliseconds per call, measured interleaved with the source on one device.

    ``ratio`` is variant / source (below 1 is faster), with its bootstrap interval over rounds.
    ``drift`` is how much slower the source ran in the second half of the rounds than in the first
    (0.1 is 10 %): the ratio bears it, the milliseconds do not. None with too few rounds.
    """

    device: str
    threads: int
    batch: int
    p50: float
    p95: float
    source_p50: float
    ratio: float
    ratio_interval: Interval
    drift: float | None = None

    @property
    def place(self) -> Place:
        """Where it was measured."""
        return Place(self.device, self.threads)


@dataclass(frozen=True)
class OperatorTime:
    """Milliseconds per call that a kind of operator takes in a variant and in its source."""

    operator: str
    ms: float
    source_ms: float


@dataclass(frozen=True)
class Memory:
    """Peak resident bytes of a fresh process that runs the variant on a device."""

    device: str
    threads: int
    bytes: int

    @property
    def place(self) -> Place:
        """Where it was measured."""
        return Place(self.device, self.threads)


@dataclass(frozen=True)
class Needs:
    """What a runtime has to have to run a variant.

    Attributes:
        opset: the highest opset of ONNX's own domain.
        operators: each operator, and the first node that uses it; those of other domains are
            named with their domain (``com.microsoft.MatMulNBits``).
        dtypes: each tensor type by ONNX's lower-case name, and the first thing that has it.
    """

    opset: int
    operators: Mapping[str, str]
    dtypes: Mapping[str, str]


def _or_worst(value: float) -> float:
    return value if isinstance(value, int | float) and math.isfinite(value) else math.inf


@dataclass(frozen=True)
class Report:
    """Every number of one variant; what was not measured is None, never invented.

    ``memory_bytes`` is the peak on this machine, ``memory`` has those on other devices. ``slower``
    are the operators responsible where the variant is slower than its source on this machine.
    """

    size_bytes: int
    source_bytes: int
    rate: float
    entropy: float
    sha256: str
    layers: tuple[LayerReport, ...] = ()
    stages: tuple[StageReport, ...] = ()
    accuracy: Accuracy | None = None
    fidelity: Fidelity | None = None
    latency: tuple[Latency, ...] = ()
    memory_bytes: int | None = None
    memory: tuple[Memory, ...] = ()
    needs: Needs | None = None
    slower: tuple[OperatorTime, ...] = ()

    def latency_at(self, place: Place) -> Latency | None:
        """Return the latency at a place; of several, the slowest."""
        found = [one for one in self.latency if one.place == place]
        return max(found, key=lambda one: (_or_worst(one.p50), one.device), default=None)

    def memory_at(self, place: Place) -> int | None:
        """Return the peak resident bytes on a device; with whatever threads, the largest."""
        if place.is_local:
            return self.memory_bytes
        return max((m.bytes for m in self.memory if m.device == place.device), default=None)

    def with_latency(self, latency: Latency) -> "Report":
        """Return the report with a latency in the place of what was measured there before."""
        others = (one for one in self.latency if one.place != latency.place)
        return replace(self, latency=(*others, latency))

    def with_memory(self, place: Place, size: int) -> "Report":
        """Return the report with a peak of so many bytes at a place."""
        if place.is_local:
            return replace(self, memory_bytes=size)
        others = (one for one in self.memory if one.place != place)
        return replace(self, memory=(*others, Memory(place.device, place.threads, size)))


@dataclass(frozen=True)
class Variant:
    """A packed model and its report.

    Attributes:
        key: the trial's key (digest of source, recipe, data, evaluator, versions).
        recipe: what made it.
        report: its numbers.
        source: URI of the source with the version resolved (``models:/lenet/3``).
        model_uri: where MLflow keeps it (``models:/m-…``), empty before it is logged.
        run_id: the trial's run, empty before it is logged.
        version: the registered version, None before it is registered.
        quarantined: targets for which this version was rolled back.
    """

    key: str
    recipe: Recipe
    report: Report
    source: str = ""
    model_uri: str = ""
    run_id: str = ""
    version: int | None = None
    quarantined: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Trial:
    """One recipe tried: what came of it, and the packed file while it is still local.

    ``state`` is ``complete`` (measured now), ``reused`` (finished in an earlier search),
    ``dropped`` (cannot be promoted, so that it was not measured to the end) or ``failed``;
    ``error`` says why in one line. ``steps`` counts the recipe's steps that this trial had to
    make, ``reused_steps`` those of them that an earlier trial had made already. ``partial`` is what
    was measured of a dropped one.
    """

    number: int
    key: str
    recipe: Recipe
    state: Literal["complete", "reused", "dropped", "failed"]
    seconds: float = 0.0
    variant: Variant | None = None
    path: str = ""
    error: str = ""
    steps: int = 0
    reused_steps: int = 0
    partial: Report | None = None


@dataclass(frozen=True)
class Gate:
    """One limit checked on one variant; ``value`` is None when the metric is missing."""

    name: str
    passed: bool
    value: float | None
    limit: float
    reason: str = ""


@dataclass(frozen=True)
class Decision:
    """What promotion did for one target, and why.

    Attributes:
        target: the target's name, which is also the alias.
        outcome: ``promoted``, ``kept`` or ``none feasible``.
        version: the version the alias should point to, None when none is feasible and
            nothing is there to be kept.
        incumbent: the version the alias pointed to before, or None.
        reason: one sentence.
        gates: every gate of every variant considered, by version.
        best_gap: for ``none feasible``, the version that came closest.
    """

    target: str
    outcome: Literal["promoted", "kept", "none feasible"]
    version: int | None
    incumbent: int | None
    reason: str
    gates: Mapping[int, tuple[Gate, ...]] = field(default_factory=dict)
    best_gap: int | None = None
