"""What a search tells whoever keeps the record; search itself knows no MLflow."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mlflow_compress.records import DatasetRef, Recipe, Trial
from mlflow_compress.techniques.data import Epoch

__all__ = ["WINDOW", "Epoch", "NullObserver", "Observer", "SearchInfo"]

WINDOW = 4
"""So many trials are on their way at most, unless told otherwise."""


@dataclass(frozen=True)
class SearchInfo:
    """What a search is about.

    Attributes:
        name: what the search is called, for people.
        source: URI of the source with its version resolved.
        source_digest: sha256 of the source's ONNX bytes.
        source_bytes: bytes of the source's weights as stored.
        strategy: name of the strategy.
        planned: how many trials are planned, None when unknown.
        datasets: the rows used, by role (``calibration``, ``evaluation``).
        config: the whole configuration as plain data.
    """

    name: str
    source: str
    source_digest: str
    source_bytes: int
    strategy: str
    planned: int | None = None
    datasets: Mapping[str, DatasetRef] = field(default_factory=dict)
    config: Mapping[str, Any] = field(default_factory=dict)


class Observer(ABC):
    """Receives a search's records in order, in one thread; may raise, which ends the search.

    Several trials may be open at a time. ``finished_trials`` is called from another thread. What is
    not overridden is not recorded.
    """

    def finished_trials(self, keys: Sequence[str]) -> Mapping[str, Trial]:
        """Return earlier complete trials among ``keys``, by key (state ``reused``)."""
        return {}

    @abstractmethod
    def search_started(self, info: SearchInfo) -> None:
        """Open the record of a search."""

    @abstractmethod
    def trial_started(self, number: int, recipe: Recipe, key: str) -> None:
        """Say that a trial begins."""

    def trial_trained(  # noqa: B027 - a search that trains nothing has none
        self, number: int, epochs: Sequence[Epoch]
    ) -> None:
        """Record epochs that an unfinished trial was trained for."""

    @abstractmethod
    def trial_finished(self, trial: Trial) -> Trial:
        """Record a trial; return it with ``model_uri`` and ``run_id`` filled in."""

    @abstractmethod
    def search_finished(self, trials: Sequence[Trial], status: str) -> None:
        """Close the record; ``status`` is ``FINISHED``, ``FAILED`` or ``KILLED``."""


class NullObserver(Observer):
    """Keeps no record."""

    def search_started(self, info: SearchInfo) -> None:
        """Do nothing."""

    def trial_started(self, number: int, recipe: Recipe, key: str) -> None:
        """Do nothing."""

    def trial_finished(self, trial: Trial) -> Trial:
        """Return the trial as it came."""
        return trial

    def search_finished(self, trials: Sequence[Trial], status: str) -> None:
        """Do nothing."""
