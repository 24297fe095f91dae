"""Closeness of a variant's outputs to its source's, for which no labels are needed."""

from collections.abc import Mapping

import numpy as np

from mlflow_compress.measure.data import Dataset
from mlflow_compress.measure.entropy import kl_divergence
from mlflow_compress.records import Fidelity

__all__ = ["distributions", "measure_fidelity"]


def measure_fidelity(
    variant: Mapping[str, np.ndarray], source: Mapping[str, np.ndarray], dataset: Dataset
) -> Fidelity | None:
    """Compare the distributions over classes that two models give to the same rows.

    The first float output counts. Its classes are along the last axis, or along axis 1 of an
    output with four axes; a single column is the probability, or the logit, of one class.

    Args:
        variant: the variant's outputs by name, of [rows, ...].
        source: the source's outputs by name, of [rows, ...].
        dataset: the rows, for the record.

    Returns:
        None when no output can be read as classes.
    """
    name = next((key for key, array in source.items() if array.dtype.kind == "f"), None)
    if name is None:
        return None
    reference, given = _class_axis_last(source[name]), _class_axis_last(variant[name])
    as_probabilities = _is_distribution(reference)
    p = distributions(reference, as_probabilities)
    q = distributions(given, as_probabilities)
    return Fidelity(
        agreement=float((p.argmax(axis=-1) == q.argmax(axis=-1)).mean()),
        kl=float(kl_divergence(p, q).mean()),
        dataset=dataset.ref,
    )


def distributions(output: np.ndarray, is_probability: bool) -> np.ndarray:
    """Return distributions along the last axis, in float64, of [..., classes].

    Args:
        output: probabilities or logits of [..., classes]; one column stands for two classes.
        is_probability: whether to normalise (True) or to take the softmax (False).
    """
    values = output.astype(np.float64)
    if values.shape[-1] == 1:
        rest = 1 - values if is_probability else np.zeros_like(values)
        values = np.concatenate([rest, values], axis=-1)
    if is_probability:
        values = np.maximum(values, 0)
        total = values.sum(axis=-1, keepdims=True)
        return np.where(total > 0, values / np.where(total > 0, total, 1), 1 / values.shape[-1])
    values = np.exp(values - values.max(axis=-1, keepdims=True))
    return values / values.sum(axis=-1, keepdims=True)


def _class_axis_last(output: np.ndarray) -> np.ndarray:
    if output.ndim == 1:
        return output[:, None]
    return np.moveaxis(output, 1, -1) if output.ndim == 4 else output


def _is_distribution(output: np.ndarray) -> bool:
    """Whether values are probabilities already: not negative, and summing to one."""
    if output.min(initial=0) < 0 or output.max(initial=0) > 1 + 1e-3:
        return False
    if output.shape[-1] == 1:
        return True
    return bool(np.allclose(output.sum(axis=-1, dtype=np.float64), 1, atol=1e-2))
