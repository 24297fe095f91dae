"""MLflow's own metrics, and those made with ``mlflow.models.make_metric``, as metrics here."""

import inspect
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from mlflow_compress.base.foreign import foreign
from mlflow_compress.base.spelling import closest
from mlflow_compress.errors import ConfigError, DataError
from mlflow_compress.measure.metrics import Metric, MetricFamily, Rows, for_set
from mlflow_compress.measure.metrics.reading import as_classes, is_binary, text_first

__all__ = ["MLFLOW"]

_DRAWS = 200


def _made(name: str, asked: str) -> Metric:
    """Return the metric of ``mlflow:NAME``, where ``mlflow.metrics.NAME()`` makes one."""
    import mlflow.metrics
    from mlflow.models import EvaluationMetric

    makers = {
        key: maker
        for key, maker in vars(mlflow.metrics).items()
        if inspect.isfunction(maker)
        and inspect.signature(maker).return_annotation is EvaluationMetric
        and all(p.default is not p.empty for p in inspect.signature(maker).parameters.values())
    }
    if asked not in makers:
        near = closest(f"mlflow:{asked}", [f"mlflow:{one}" for one in makers])
        raise ConfigError(
            f"metric {name!r}: mlflow.metrics has no {asked!r}{near} that needs no arguments; it "
            f"has {', '.join(sorted(makers))}"
        )
    return _adapted(name, makers[asked]())


def _adopted(name: str, found: object) -> Metric | None:
    from mlflow.models import EvaluationMetric

    return _adapted(name, found) if isinstance(found, EvaluationMetric) else None


def _adapted(name: str, metric: Any) -> Metric:
    """Return a metric of MLflow's as one number for the set.

    It is given predictions and targets as MLflow gives them, pandas series by row: the text or the
    number of [rows] and [rows, 1], the best class of [rows, classes] where the targets are class
    numbers, and a list of numbers where the targets have several values.
    """
    arguments = _arguments(name, metric)
    return Metric(
        name,
        for_set(lambda rows: _number(name, metric, arguments(rows), rows)),
        reads=text_first,
        higher_is_better=bool(metric.greater_is_better),
        unit="",
        draws=_DRAWS,
        undefined=f"{metric.name} gave no number",
    )


def _arguments(name: str, metric: Any) -> Callable[[Rows], dict[str, Any]]:
    """Return what makes the arguments of a metric's function, by their names."""
    known: dict[str, Callable[[Rows], Any]] = {
        "predictions": _predictions,
        "targets": lambda rows: _series(rows.wanted),
        "metrics": lambda rows: {},
        "inputs": lambda rows: _series(next(iter(rows.inputs.values()))),
    }
    parameters = inspect.signature(metric.eval_fn).parameters
    unknown = [
        key
        for key, one in parameters.items()
        if key not in known
        and one.default is one.empty
        and one.kind not in (one.VAR_POSITIONAL, one.VAR_KEYWORD)
    ]
    if unknown:
        raise ConfigError(
            f"metric {name!r}: its function takes {unknown[0]!r}, which is not given here; it may "
            f"take {', '.join(known)}"
        )
    return lambda rows: {key: known[key](rows) for key in parameters if key in known}


def _predictions(rows: Rows) -> Any:
    output, labels = rows.output, rows.wanted
    is_classes = labels.size == rows.count and output.size > rows.count
    if output.dtype.kind == "f" and is_classes and not is_binary(output):
        output = as_classes(output, rows.telling)
    return _series(output)


def _series(array: np.ndarray) -> Any:
    import pandas

    flat = array.reshape(-1) if array.size == len(array) else array
    return pandas.Series(flat if flat.ndim == 1 else flat.reshape(len(flat), -1).tolist())


def _number(name: str, metric: Any, arguments: dict[str, Any], rows: Rows) -> float:
    if rows.failed.any():
        return rows.worst
    given = f"; predictions are output {rows.name!r}, of shape {list(rows.output.shape)}"
    with foreign(f"metric {name!r}", given):
        found = metric.eval_fn(**arguments)
    if found is None:
        raise DataError(f"metric {name!r} gave nothing; MLflow's log says why")
    if isinstance(found, int | float | np.number):
        return float(found)
    values = found.aggregate_results or {}
    for key in (metric.name, "mean", *values):
        if key in values:
            value = values[key]
            return float(value) if isinstance(value, int | float | np.number) else math.nan
    raise DataError(f"metric {name!r} gave no number for the set, only {list(values)}")


MLFLOW = MetricFamily("mlflow:NAME", r"mlflow:(\w+)", _made, _adopted)
