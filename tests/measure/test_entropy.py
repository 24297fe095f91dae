import numpy as np
import pytest

from mlflow_compress.measure import code_bits, entropy, kl_divergence, redundancy


@pytest.mark.parametrize(
    ("values", "bits"),
    [([1, 1, 1], 0.0), ([0, 1], 1.0), ([0, 0, 1, 2], 1.5), (list(range(256)), 8.0), ([], 0.0)],
)
def test_entropy(values, bits):
    assert entropy(np.array(values)) == pytest.approx(bits)


def test_a_fitting_code_spends_the_entropy_and_another_spends_the_divergence_more():
    values = np.array([0, 0, 1, 2])
    assert code_bits(values, {0: 1, 1: 2, 2: 2}) == 1.5
    assert redundancy(values, {0: 1, 1: 2, 2: 2}) == 0
    p, q = np.array([0.5, 0.25, 0.25]), np.array([0.25, 0.5, 0.25])
    assert redundancy(values, {0: 2, 1: 1, 2: 2}) == pytest.approx(
        float(kl_divergence(p, q)) / np.log(2)
    )
