"""How a metric's numbers are shown: the one place that knows what its unit means."""

from mlflow_compress.records.kinds import Accuracy

__all__ = ["change_unit", "format_change", "format_drop", "format_score", "shown_change"]


def format_score(value: float, unit: str) -> str:
    """Return a metric's value for people: ``94.60 %``, ``31.20 points``, ``14.2 dB``, ``0.0156``.

    Args:
        value: the value.
        unit: see :class:`Accuracy`.
    """
    if unit == "share":
        return f"{100 * value:.2f} %"
    if unit == "points":
        return f"{value:.2f} points"
    return f"{value:.4g} {unit}".rstrip()


def format_change(value: float, unit: str) -> str:
    """Return a difference of two values with its unit: ``0.40 points``, ``0.3 dB``, ``0.0021``."""
    return f"{_number(value, unit)} {change_unit(unit)}".rstrip()


def format_drop(accuracy: Accuracy) -> str:
    """Return the drop with its interval, in :func:`change_unit`: ``0.40 [-0.35, 1.15]``."""
    low, high = accuracy.drop_interval.low, accuracy.drop_interval.high
    unit = accuracy.unit
    return f"{_number(accuracy.drop, unit)} [{_number(low, unit)}, {_number(high, unit)}]"


def change_unit(unit: str) -> str:
    """Return what differences of values are counted in; shares differ by points of a hundred."""
    return "points" if unit == "share" else unit


def shown_change(value: float, unit: str) -> float:
    """Return a difference of two values in :func:`change_unit`."""
    return 100 * value if unit == "share" else value


def _number(value: float, unit: str) -> str:
    digits = ".2f" if unit in ("share", "points") else ".4g"
    return format(shown_change(value, unit) + 0, digits)  # never -0.00
