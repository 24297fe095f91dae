"""Scores arrays by a metric, as the tests of metrics need it."""

import numpy as np

from mlflow_compress.measure import Dataset, MetricSpec, measure_accuracy, score


def rows(labels=None, *, count=None, inputs=None, **named):
    """Rows with labels, and inputs that nothing looks at."""
    arrays = [np.asarray(one) for one in (labels, *named.values()) if one is not None]
    count = len(arrays[0]) if count is None else count
    inputs = {"x": np.zeros((count, 1), np.float32)} if inputs is None else inputs
    labels = None if labels is None else np.asarray(labels)
    return Dataset(inputs, labels, named_labels={k: np.asarray(v) for k, v in named.items()})


def scored(metric, output, labels=None, **named):
    """The value of a metric for one output, or several by name."""
    outputs = output if isinstance(output, dict) else {"y": np.asarray(output)}
    return score(outputs, rows(labels, **named), metric)


def compared(metric, variant, source, labels=None, *, count=None, **named):
    """The accuracy of a variant's output against a source's."""
    outputs = [
        one if isinstance(one, dict) else {"y": np.asarray(one)} for one in (variant, source)
    ]
    return measure_accuracy(*outputs, rows(labels, count=count, **named), metric)


def from_source(metric, **told):
    return MetricSpec(metric, labels="source", **told)
