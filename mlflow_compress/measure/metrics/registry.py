"""Finds metrics by name in the entry-point group ``mlflow_compress.metrics``."""

import inspect
from dataclasses import replace
from functools import cache

from mlflow_compress.base.declared import DeclaredMetric
from mlflow_compress.base.plugins import Group
from mlflow_compress.base.spelling import closest
from mlflow_compress.errors import ConfigError
from mlflow_compress.measure.load import load_object
from mlflow_compress.measure.metrics.base import Metric, MetricFamily
from mlflow_compress.measure.metrics.own import own_metric
from mlflow_compress.measure.metrics.spec import MetricSpec

__all__ = ["find_metric", "metric_names"]

_GROUP = Group("mlflow_compress.metrics", "metric")


@cache
def _installed(name: str) -> Metric | MetricFamily:
    found = _GROUP.load(name)
    if isinstance(found, Metric | MetricFamily):
        return found
    if callable(found):
        return own_metric(name, found)
    raise ConfigError(
        f"metric {name!r}: {_GROUP.point(name).value} is a {type(found).__name__}, "
        "expected a Metric, a MetricFamily or a function"
    )


def metric_names() -> tuple[str, ...]:
    """Return the names of all installed metrics, sorted; those of a family by their spelling."""
    found = (_installed(name) for name in _GROUP.names())
    names = (one.spelling if isinstance(one, MetricFamily) else one.name for one in found)
    return tuple(sorted(names))


def find_metric(metric: str | MetricSpec) -> Metric:
    """Return a metric.

    Args:
        metric: an installed name (:func:`metric_names`), ``module:function`` or
            ``file.py:function`` of one's own (:func:`own_metric`), or either with what overrides
            its output, direction and unit.

    Raises:
        ConfigError: there is no metric of this name.
        DataNotFoundError: the module or function does not exist.
    """
    spec = MetricSpec.of(metric)
    found = _by_name(spec.name)
    if spec.output is not None:
        read = (spec.output,)
        found = replace(found, reads=lambda outputs: read)
    if spec.higher_is_better is not None:
        found = replace(found, higher_is_better=spec.higher_is_better)
    return found if spec.unit is None else replace(found, unit=spec.unit)


def _by_name(name: str) -> Metric:
    if name in _GROUP:
        found = _installed(name)
        if isinstance(found, Metric):
            return found
    for start in _GROUP.names():
        if name.startswith(start):
            family = _installed(start)
            member = family.find(name) if isinstance(family, MetricFamily) else None
            if member is not None:
                return member
    if ":" in name:
        return _loaded(name)
    names = metric_names()
    raise ConfigError(
        f"metric {name!r} does not exist{closest(name, names)}; use one of {', '.join(names)}, or "
        "module:function"
    )


def _loaded(name: str) -> Metric:
    """Return the metric behind ``module:object``."""
    found: object = load_object(name)
    label = MetricSpec(name).label
    if isinstance(found, Metric):
        return found
    if not isinstance(found, DeclaredMetric) and not inspect.isroutine(found):
        for start in _GROUP.names():
            family = _installed(start)
            adopted = family.adopt(label, found) if isinstance(family, MetricFamily) else None
            if adopted is not None:
                return adopted
    if callable(found):
        return own_metric(label, found)
    raise ConfigError(f"metric {name!r} is a {type(found).__name__}, expected a function")
