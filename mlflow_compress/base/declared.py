"""What a person's own metric says of itself: direction, unit, and the output it reads.

Nothing heavy is imported here: ``mlflow_compress.metric`` is for files of one's own.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

__all__ = ["DeclaredMetric", "metric"]


@dataclass(frozen=True)
class DeclaredMetric:
    """A function with what :func:`metric` says of it; it can be called as before.

    Attributes:
        function: the function.
        name: what reports call it; the configuration's own text when empty.
        higher_is_better: False for errors.
        unit: see :class:`mlflow_compress.records.Accuracy`; None is ``share`` for scores that are
            right or wrong per row, and a plain number else.
        output: the output that it reads; empty for all of them.
    """

    function: Callable[..., Any]
    name: str = ""
    higher_is_better: bool = True
    unit: str | None = None
    output: str = ""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the function."""
        return self.function(*args, **kwargs)


def metric(
    *, name: str = "", higher_is_better: bool = True, unit: str | None = None, output: str = ""
) -> Callable[[Callable[..., Any]], DeclaredMetric]:
    """Say of a metric of one's own which way it goes, in which unit, and what it reads.

    ::

        @mlflow_compress.metric(higher_is_better=False, unit="dB", output="denoised")
        def log_spectral_distance(outputs, labels, inputs): ...

    Args:
        name: what reports call it.
        higher_is_better: False for errors.
        unit: ``share`` (0 to 1, shown as %), ``points``, another text such as ``dB``, or empty for
            a plain number.
        output: the output that it reads.
    """

    def declare(function: Callable[..., Any]) -> DeclaredMetric:
        return DeclaredMetric(function, name, higher_is_better, unit, output)

    return declare
