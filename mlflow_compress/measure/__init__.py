"""Measuring: datasets, accuracy, fidelity, latency, size, entropy, layers."""

from mlflow_compress.measure.accuracy import measure_accuracy, score
from mlflow_compress.measure.affinity import pinned, usable_cores
from mlflow_compress.measure.assemble import dataset_of
from mlflow_compress.measure.data import Dataset, held_back
from mlflow_compress.measure.entropy import code_bits, entropy, kl_divergence, redundancy
from mlflow_compress.measure.fidelity import measure_fidelity
from mlflow_compress.measure.fit_rows import Fitted, fit_rows
from mlflow_compress.measure.fitting import check_fits
from mlflow_compress.measure.latency import drift_of, is_tie, measure_latency
from mlflow_compress.measure.layers import layer_reports, stage_reports
from mlflow_compress.measure.load import load_dataset
from mlflow_compress.measure.metrics import Metric, MetricSpec, find_metric, metric_names
from mlflow_compress.measure.outputs import tell_outputs
from mlflow_compress.measure.profiler import slower_operators
from mlflow_compress.measure.runner import (
    Runnable,
    find_layout,
    open_session,
    run,
    session_options,
    settle,
)
from mlflow_compress.measure.size import weight_bytes

__all__ = [
    "Dataset",
    "Fitted",
    "Metric",
    "MetricSpec",
    "Runnable",
    "check_fits",
    "code_bits",
    "dataset_of",
    "drift_of",
    "entropy",
    "find_layout",
    "find_metric",
    "fit_rows",
    "held_back",
    "is_tie",
    "kl_divergence",
    "layer_reports",
    "load_dataset",
    "measure_accuracy",
    "measure_fidelity",
    "measure_latency",
    "metric_names",
    "open_session",
    "pinned",
    "redundancy",
    "run",
    "score",
    "session_options",
    "settle",
    "slower_operators",
    "stage_reports",
    "tell_outputs",
    "usable_cores",
    "weight_bytes",
]
