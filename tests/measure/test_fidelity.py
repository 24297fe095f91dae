import numpy as np
import pytest

from mlflow_compress.measure import Dataset, kl_divergence, measure_fidelity


def data(rows):
    return Dataset({"x": np.zeros((rows, 1), np.float32)})


def test_equal_outputs_agree_fully_and_diverge_nowhere(rng):
    outputs = {"y": rng.normal(size=(20, 5))}
    made = measure_fidelity(outputs, outputs, data(20))
    assert (made.agreement, made.kl) == (1.0, 0.0)
    assert made.dataset.rows == 20


def test_logits_and_their_probabilities_give_the_same(rng):
    logits, other = rng.normal(size=(2, 20, 5))

    def softmax(z):
        return np.exp(z) / np.exp(z).sum(axis=1, keepdims=True)

    from_logits = measure_fidelity({"y": other}, {"y": logits}, data(20))
    from_probabilities = measure_fidelity({"y": softmax(other)}, {"y": softmax(logits)}, data(20))
    assert from_logits.kl == pytest.approx(from_probabilities.kl)
    assert from_logits.agreement == from_probabilities.agreement < 1
    p, q = softmax(logits), softmax(other)
    assert from_logits.kl == pytest.approx((p * np.log(p / q)).sum(axis=1).mean())


def test_one_column_is_one_class_of_two():
    made = measure_fidelity({"y": np.array([0.9, 0.2])}, {"y": np.array([0.8, 0.6])}, data(2))
    assert made.agreement == 0.5
    two = kl_divergence(np.array([0.2, 0.8]), np.array([0.1, 0.9]))
    other = kl_divergence(np.array([0.4, 0.6]), np.array([0.8, 0.2]))
    assert made.kl == pytest.approx((two + other) / 2)


def test_pixels_are_compared_along_their_class_axis(rng):
    source = rng.normal(size=(2, 3, 4, 4))
    variant = source.copy()
    variant[0, :, 0, 0] = -source[0, :, 0, 0]
    made = measure_fidelity({"y": variant}, {"y": source}, data(2))
    assert made.agreement == pytest.approx(31 / 32)


def test_outputs_that_are_no_classes_give_nothing():
    assert measure_fidelity({"y": np.array([1, 2])}, {"y": np.array([1, 2])}, data(2)) is None


def test_a_probability_of_zero_costs_much_not_infinitely_much():
    made = measure_fidelity({"y": np.array([[1.0, 0.0]])}, {"y": np.array([[0.0, 1.0]])}, data(1))
    assert np.isfinite(made.kl)
    assert made.kl > 10
