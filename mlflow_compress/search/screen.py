"""Cheap checks first: what can no longer be promoted is not measured to the end.

What no target's runtime can load goes at once: it can never be promoted. Nothing else is dropped
until every target has a variant that keeps all of its limits: until then each measured variant is
worth something, the one that comes closest most of all.
"""

import itertools
import math
from collections.abc import Iterator, Sequence

import numpy as np

from mlflow_compress.errors import CompressError
from mlflow_compress.records import Accuracy, Fidelity, Needs, Recipe, Report, Trial
from mlflow_compress.search.front import Objective
from mlflow_compress.search.goals import keeps_all, told_quality, told_rate, told_values
from mlflow_compress.targets import Limit, Look, Target, is_out_of_reach, lacks, limits_of

__all__ = ["LEVEL", "DroppedError", "Screen", "draw_rows"]

LEVEL = 0.999
"""Level of the intervals whose better end is compared with the limits; several are looked at."""

_FIRST, _GROWTH, _LAST = 256, 4, 0.3
"""Rows of the first look, how many times as many the next has, and the largest share of all."""


class DroppedError(CompressError):
    """A variant that no target can take.

    Attributes:
        report: what was measured of it.
    """

    def __init__(self, reason: str, report: Report | None) -> None:
        super().__init__(reason)
        self.report = report


class Screen:
    """Says of a variant, from what is known so far, whether any target could take it.

    Args:
        targets: what variants are for; none means that nothing is ever dropped.
        objectives: what the front is made of.
    """

    def __init__(self, targets: Sequence[Target], objectives: Sequence[Objective]) -> None:
        self._targets, self._objectives = tuple(targets), tuple(objectives)
        self._open = {target.name: target for target in targets}
        self._points: list[tuple[float, ...]] = []

    def learn(self, trial: Trial) -> None:
        """Hear of a finished trial."""
        if trial.variant is None:
            return
        for target in list(self._open.values()):
            if keeps_all(trial.variant, target):
                del self._open[target.name]
        values = told_values(trial.variant, self._objectives)
        if not any(map(math.isnan, values)):
            self._points.append(values)

    @property
    def is_on(self) -> bool:
        """Whether anything may be dropped: every target has a variant already."""
        return bool(self._targets) and not self._open

    def cannot_run(self, recipe: Recipe) -> str:
        """Say why no target loads what a recipe makes, empty when one does."""
        if not self.is_on or any(recipe.profile in t.execution.profiles for t in self._targets):
            return ""
        return f"no target loads the profile {recipe.profile}"

    def cannot_load(self, needs: Needs, profile: str) -> str:
        """Say what every target's runtime lacks for a variant, empty when one lacks nothing.

        Targets that do not load its profile do not count; :meth:`cannot_run` looks at these.
        """
        loading = [t for t in self._targets if profile in t.execution.profiles]
        reasons = [lacks(needs, target) for target in loading]
        if not reasons or not all(reasons):
            return ""
        return "runtime: " + "; ".join(reasons)

    def too_large(self, report: Report) -> str:
        """Say which limit of a file's size every target breaks, empty when one takes it."""
        broken = [_broken_by_file(report, target) for target in self._targets]
        if not self.is_on or not all(broken):
            return ""
        loosest = max(itertools.chain(*broken), key=lambda limit: limit.bound)
        return f"{loosest.verdict(report)}, the most any target takes"

    def looks(self, rows: int) -> Iterator[int]:
        """Yield the numbers of rows, growing, at which to call :meth:`hopeless`."""
        look = _FIRST
        while self.is_on and look <= _LAST * rows:
            yield look
            look *= _GROWTH

    def hopeless(
        self,
        report: Report,
        accuracy: Accuracy | None,
        fidelity: Fidelity | None,
        source: float,
        read_by: Sequence[str] | None = None,
    ) -> str:
        """Say why a variant breaks every target's limits at the best, empty when it may not.

        A variant that could still reach the front is never hopeless.

        Args:
            report: its sizes.
            accuracy: on some rows drawn at random, with its interval at :data:`LEVEL`, or None.
            fidelity: on the same rows, or None.
            source: the source's accuracy on all rows, NaN without labels.
            read_by: the outputs that the metric reads; None without labels.
        """
        look = Look(accuracy, fidelity, LEVEL, source, read_by=read_by)
        if not all(is_out_of_reach(target, look) for target in self._targets):
            return ""
        drop = -math.inf if accuracy is None else accuracy.drop_interval.low
        closeness = 1.0 if fidelity is None else fidelity.best_quality
        best = {"accuracy": -drop, "agreement": closeness - 1.0, "fidelity": closeness - 1.0}
        if not self._is_beaten(report, best):
            return ""
        rows = next(x.dataset.rows for x in (accuracy, fidelity) if x is not None)
        if drop > 0 or fidelity is None:
            return f"loses {100 * drop:.2g} points at the least, by its first {rows} rows"
        return f"is too far from the source ({fidelity.text}), by its first {rows} rows"

    def _is_beaten(self, report: Report, best: dict[str, float]) -> bool:
        """Whether a measured variant is better on all objectives than this can be.

        Args:
            report: its sizes.
            best: by objective, how far it is above the source at the best.
        """
        values = []
        for name in self._objectives:
            if name == "rate":
                values.append(told_rate(report.rate))
            elif name in best and math.isfinite(best[name]):
                values.append(told_quality(best[name]))
            else:
                return False  # a latency may still turn out well
        return any(all(o >= v for o, v in zip(p, values, strict=True)) for p in self._points)


def draw_rows(rows: int, seed: int) -> np.ndarray:
    """Return all rows in a random order, always the same: data often come sorted."""
    return np.random.default_rng([seed, 0xF1257]).permutation(rows)


def _broken_by_file(report: Report, target: Target) -> list[Limit]:
    """Return the limits that a packed file breaks, whatever is measured later."""
    limits = (limit for limit in limits_of(target) if limit.source == "file")
    return [limit for limit in limits if not limit.gate(report).passed]
