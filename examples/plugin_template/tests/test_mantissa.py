"""One fixture, and every case of the contract; then what is particular to this technique."""

import numpy as np
import pytest
from mlflow_compress_mantissa import TECHNIQUE, MantissaSettings
from onnx import numpy_helper

from mlflow_compress.techniques import Context
from mlflow_compress.testing import TechniqueContract
from mlflow_compress.testing.models import contract_model


class TestMantissa(TechniqueContract):
    bad = {"bits": 24}

    @pytest.fixture
    def technique(self):
        return TECHNIQUE


@pytest.mark.parametrize("bits", [0, 4, 23])
def test_weights_move_by_half_a_unit_of_the_last_bit_at_most(bits):
    made = TECHNIQUE.apply(contract_model(), MantissaSettings(bits), Context()).model
    for old, new in zip(contract_model().graph.initializer, made.graph.initializer, strict=True):
        one, two = numpy_helper.to_array(old), numpy_helper.to_array(new)
        if one.ndim < 2:
            np.testing.assert_array_equal(one, two)
            continue
        assert (np.abs(one - two) <= np.abs(one) * 2.0 ** -(bits + 1)).all()
        assert not (two.view(np.uint32) & ((1 << (23 - bits)) - 1)).any()
