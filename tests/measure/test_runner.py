import numpy as np
import pytest

from mlflow_compress.errors import DataError, SourceError
from mlflow_compress.measure import Dataset, open_session, run


@pytest.mark.parametrize("batch", [1, 3, 7, 64])
def test_all_rows_are_run_in_order_whatever_the_batch(make_linear, rng, batch):
    weight, x = rng.normal(size=(4, 3)), rng.normal(size=(7, 4)).astype(np.float32)
    outputs = run(open_session(make_linear(weight)), Dataset({"x": x}), batch=batch)
    np.testing.assert_allclose(outputs["y"], x @ weight, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("fixed", [1, 4])
def test_a_fixed_batch_is_honoured(make_linear, rng, fixed):
    weight, x = rng.normal(size=(4, 3)), rng.normal(size=(7, 4)).astype(np.float32)
    outputs = run(open_session(make_linear(weight, batch=fixed)), Dataset({"x": x}))
    np.testing.assert_allclose(outputs["y"], x @ weight, rtol=1e-4, atol=1e-5)


def test_inputs_that_the_model_refuses_are_a_data_error(model):
    with pytest.raises(DataError, match="the model does not run on data 'data'"):
        run(open_session(model), Dataset({"x": np.zeros((2, 9), np.float32)}))


def test_bytes_that_are_no_model_are_a_source_error():
    with pytest.raises(SourceError, match="onnxruntime does not load the model"):
        open_session(b"nonsense")
