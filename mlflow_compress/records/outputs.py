"""What a model's outputs are, and how close a variant's come to the source's."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, get_args

from mlflow_compress.records.basics import DatasetRef, Interval
from mlflow_compress.records.plain import OMITTED

__all__ = ["KINDS", "Fidelity", "Kind", "Output", "OutputFidelity"]

Kind = Literal["classes", "values", "embedding", "boxes", "sequence", "state", "ignore"]

KINDS: tuple[Kind, ...] = get_args(Kind)


@dataclass(frozen=True)
class Output:
    """How one output of a model is judged.

    Attributes:
        name: the output's name.
        kind: what it is.
        form: how its numbers are written: of classes ``logits``, ``probabilities``,
            ``log probabilities``, ``binary`` (one probability a place), ``binary logits``,
            ``numbers`` or ``texts``; of boxes the coordinates (``xyxy``, ``cxcywh``, ``xywh``);
            empty where there is one way only.
        axis: the axis of classes, of channels or of an embedding's features; None without one.
        decision: the tensor that it is computed from by steps that decide nothing new, such as a
            softmax: outputs of one decision are one answer in several forms.
        settings: what the kind needs besides, as plain data.
        reason: how the kind was told, for a person.
        is_given: whether a person named the kind.
        is_fixed: whether no weight reaches it, such as a mask that is passed on. Where it is the
            same in all rows nothing of it is estimated.
    """

    name: str
    kind: Kind
    form: str = ""
    axis: int | None = None
    decision: str = ""
    settings: Mapping[str, int | float | str | bool] = field(default_factory=dict)
    reason: str = ""
    is_given: bool = False
    is_fixed: bool = field(default=False, metadata=OMITTED)

    @property
    def label(self) -> str:
        """For example ``classes (logits) along axis 1``."""
        text = f"{self.kind} ({self.form})" if self.form else self.kind
        return text if self.axis is None else f"{text} along axis {self.axis}"


@dataclass(frozen=True)
class OutputFidelity:
    """Closeness of one output to the source's.

    Attributes:
        output: its name.
        kind: its kind.
        measures: by name (``agreement``, ``error``, ``cosine`` …), what was measured.
        intervals: confidence intervals of those that gates read.
        broken: rows with a value that is not finite where the source's is.
        decision: see :class:`Output`.
    """

    output: str
    kind: Kind
    measures: Mapping[str, float] = field(default_factory=dict)
    intervals: Mapping[str, Interval] = field(default_factory=dict)
    broken: int = 0
    decision: str = ""

    @property
    def quality(self) -> float:
        """What a search makes larger of it, 1 being the source's own; -1 is worthless."""
        name, _ = _SHOWN[self.kind]
        value = self.measures.get(name, math.nan)
        value = 1 - value if name in _LESS_IS_BETTER else value
        return -1.0 if self.broken or not math.isfinite(value) else max(-1.0, value)

    @property
    def best_quality(self) -> float:
        """The quality at the better end of its interval; 1 where there is none."""
        name, _ = _SHOWN[self.kind]
        interval = self.intervals.get(name)
        if self.broken or interval is None:
            return -1.0 if self.broken else 1.0
        return 1 - interval.low if name in _LESS_IS_BETTER else interval.high

    @property
    def text(self) -> str:
        """What is shown of it where there is room for one number."""
        if self.broken:
            return f"NaN or infinite in {self.broken} rows"
        name, form = _SHOWN[self.kind]
        return form.format(self.measures.get(name, math.nan)).replace("%", " %")


_SHOWN: Mapping[str, tuple[str, str]] = {
    "classes": ("agreement", "{:.2%} agree"),
    "values": ("error", "error {:.3g}"),
    "embedding": ("cosine", "cosine {:.4f}"),
    "boxes": ("map", "mAP {:.4f}"),
    "sequence": ("edits", "{:.2%} edits"),
    "state": ("error", "error {:.3g}"),
}
"""The one number of each kind that a search goes for and that is shown, and how."""

_LESS_IS_BETTER = frozenset(("error", "edits"))


@dataclass(frozen=True)
class Fidelity:
    """Closeness of the variant's outputs to its source's; needs no labels.

    Attributes:
        agreement: of the outputs that are classes, the least share of rows (or positions) with
            the source's class, 0 to 1; None when there are none.
        kl: of these outputs, the largest mean KL divergence from the source's distribution, nats.
        dataset: the rows it was measured on.
        outputs: each judged output by its kind. Empty in records made before outputs were judged
            each: their agreement is that of the first float output alone.
        score: of all outputs, the least of what a search makes larger: agreement of classes, R² of
            values, cosine of embeddings and so on; 1 is the source's own.
    """

    agreement: float | None
    kl: float | None
    dataset: DatasetRef
    outputs: tuple[OutputFidelity, ...] = field(default=(), metadata=OMITTED)
    score: float | None = field(default=None, metadata=OMITTED)

    @property
    def quality(self) -> float:
        """The score; in records made before there was one, the agreement."""
        for value in (self.score, self.agreement):
            if value is not None:
                return value
        return math.nan

    @property
    def best_quality(self) -> float:
        """The quality at the better end of its interval."""
        return min((one.best_quality for one in self.outputs), default=1.0)

    @property
    def text(self) -> str:
        """The closeness of the output that is furthest off, such as ``99.20 % agree``."""
        worst = min(self.outputs, key=lambda one: one.quality, default=None)
        if worst is None:
            if self.agreement is not None:
                return f"{100 * self.agreement:.2f} % agree"
            return "-" if self.score is None else f"fidelity {self.score:.4f}"
        named = f" ({worst.output})" if len(self.outputs) > 1 else ""
        return worst.text + named

    @property
    def is_whole(self) -> bool:
        """Whether every output was judged, and not the first one alone."""
        return bool(self.outputs)

    @property
    def broken(self) -> int:
        """Rows of the output that has most, where a value is not finite and the source's is."""
        return max((one.broken for one in self.outputs), default=0)
