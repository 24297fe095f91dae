"""Closeness of a variant's outputs to its source's, for which no labels are needed."""

from collections.abc import Mapping

import numpy as np

from mlflow_compress.measure.data import Dataset
from mlflow_compress.measure.entropy import kl_divergence
from mlflow_compress.records import Fidelity
from mlflow_compress.rows import Array, Ragged

__all__ = ["distributions", "measure_fidelity"]


def measure_fidelity(
    variant: Mapping[str, Array], source: Mapping[str, Array], dataset: Dataset
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
    if isinstance(source[name], Ragged) or isinstance(variant[name], Ragged):
        return _row_by_row(variant[name], source[name], dataset)
    reference, given = (_class_axis_last(np.asarray(one[name])) for one in (source, variant))
    as_probabilities = _is_distribution(reference)
    p = distributions(reference, as_probabilities)
    q = distributions(given, as_probabilities)
    return Fidelity(
        agreement=float((p.argmax(axis=-1) == q.argmax(axis=-1)).mean()),
        kl=float(kl_divergence(p, q).mean()),
        dataset=dataset.ref,
    )


def _row_by_row(variant: Array, source: Array, dataset: Dataset) -> Fidelity | None:
    """Compare rows that differ in shape; a row that has another shape in the variant is all wrong.

    Rows without values say nothing. The KL divergence is that of the rows that can be compared.
    """
    agreements, kls = [], []
    for given, reference in zip(variant, source, strict=True):
        if given.shape != reference.shape:
            agreements.append(0.0)
        elif reference.size:
            one = measure_fidelity({"": given[None]}, {"": reference[None]}, dataset)
            if one is not None:
                agreements.append(one.agreement)
                kls.append(one.kl)
    if not agreements:
        return None
    kl = float(np.mean(kls)) if kls else float("inf")
    return Fidelity(float(np.mean(agreements)), kl, dataset.ref)


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
