"""Which metric is asked for, as plain data that goes to workers and into keys."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

__all__ = ["MetricSpec"]


@dataclass(frozen=True)
class MetricSpec:
    """A metric by name, and what is said of it beside the name.

    Attributes:
        name: see :func:`find_metric`.
        output: the output that it reads; None leaves it to the metric.
        higher_is_better: overrides the metric's direction; None leaves it.
        unit: overrides the metric's unit; None leaves it.
        labels: ``data`` for the data's labels, ``source`` for the source's own outputs.
    """

    name: str = "accuracy"
    output: str | None = None
    higher_is_better: bool | None = None
    unit: str | None = None
    labels: Literal["data", "source"] = "data"

    @classmethod
    def of(cls, metric: "str | MetricSpec") -> "MetricSpec":
        """Return the long form."""
        return cls(metric) if isinstance(metric, str) else metric

    @property
    def label(self) -> str:
        """The name that records and keys have: that of a ``file.py`` without its folder."""
        place, _, function = self.name.rpartition(":")
        return f"{Path(place).name}:{function}" if place.endswith(".py") else self.name

    @property
    def plain(self) -> str | dict[str, Any]:
        """The label where nothing else is said, else what is said: for keys and digests."""
        usual = asdict(MetricSpec(self.name))
        told = {key: value for key, value in asdict(self).items() if value != usual[key]}
        return {"name": self.label, **told} if told else self.label
