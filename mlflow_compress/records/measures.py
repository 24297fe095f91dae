"""What is measured of each kind of output, and what it has to keep when nobody says otherwise.

The defaults, with their reasons, are in docs/judging.md.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from mlflow_compress.records.outputs import Kind

__all__ = ["DEFAULTS", "MEASURES", "MEASURES_OF", "RUINED", "Measure"]


@dataclass(frozen=True)
class Measure:
    """A number that says how close an output comes to the source's.

    Attributes:
        name: its name, in reports and in limits.
        sense: whether a limit is the most or the least that is allowed.
        unit: ``share`` (0 to 1), ``dB``, ``nats``, or empty for a plain ratio.
        text: what it is, in a line.
        best: its value of an output that is the source's own.
        low: the least that it can be.
        high: the most.
    """

    name: str
    sense: Literal["most", "least"]
    unit: str
    text: str
    best: float
    low: float = 0.0
    high: float = math.inf

    def show(self, value: float) -> str:
        """Return a value with its unit, for a person."""
        if self.unit == "share":
            return f"{100 * value:.2f} %"
        return f"{value:.4g} {self.unit}".rstrip()


_CLEAN = 300.0
"""dB, of an error that is nothing."""

MEASURES: Mapping[str, Measure] = {
    one.name: one
    for one in (
        Measure(
            "agreement", "least", "share", "rows or positions of the source's class", 1.0, 0.0, 1.0
        ),
        Measure("kl", "most", "nats", "mean KL divergence from the source's", 0.0),
        Measure("error", "most", "", "power of the error over the output's variance", 0.0),
        Measure(
            "snr", "least", "dB", "signal-to-noise ratio, of the same error", _CLEAN, -math.inf
        ),
        Measure("r2", "least", "", "R², 1 minus the error", 1.0, -math.inf, 1.0),
        Measure("cosine", "least", "", "mean cosine similarity with the source's", 1.0, -1.0, 1.0),
        Measure(
            "cosine_low", "least", "", "mean cosine of the worst 1 % of the rows", 1.0, -1.0, 1.0
        ),
        Measure(
            "neighbours",
            "least",
            "share",
            "rows with the source's nearest neighbour",
            1.0,
            0.0,
            1.0,
        ),
        Measure("precision", "least", "share", "boxes that the source has too", 1.0, 0.0, 1.0),
        Measure("recall", "least", "share", "boxes of the source that are found", 1.0, 0.0, 1.0),
        Measure(
            "map",
            "least",
            "share",
            "mean average precision against the source's boxes",
            1.0,
            0.0,
            1.0,
        ),
        Measure("edits", "most", "share", "edits per symbol that the source reads", 0.0),
        Measure(
            "decoded", "least", "share", "rows that read as the source reads them", 1.0, 0.0, 1.0
        ),
    )
}

_ERRORS = ("error", "snr", "r2")

MEASURES_OF: Mapping[Kind, tuple[str, ...]] = {
    "classes": ("agreement", "kl", *_ERRORS),
    "values": _ERRORS,
    "embedding": ("cosine", "cosine_low", "neighbours", *_ERRORS),
    "boxes": ("precision", "recall", "map"),
    "sequence": ("edits", "decoded", *_ERRORS),
    "state": _ERRORS,
    "ignore": (),
}
"""What is measured of each kind; of classes that are numbers or texts, the agreement alone."""

DEFAULTS: Mapping[Kind, Mapping[str, float]] = {
    "classes": {"agreement": 0.99},
    "values": {"error": 0.01},
    "embedding": {"cosine": 0.995},
    "boxes": {"precision": 0.95, "recall": 0.95, "map": 0.9},
    "sequence": {"edits": 0.01},
    "state": {"error": 0.01},
    "ignore": {},
}
"""Limits of each kind, where nobody says otherwise."""

RUINED = 0.5
"""No output of numbers may be further from the source's than half of its variance, whatever else
is said of it: a class that is right by luck, or a cosine that a constant has too, is worth nothing.
"""
