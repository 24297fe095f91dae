"""Random weights of all sorts: what onnxruntime and the native reader decode is what was packed."""

import numpy as np
import onnxruntime
import packed_models
import portable_models as models
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import numpy_helper

from mlflow_compress import packed
from mlflow_compress.packed.portable import plan as portable_plan

DTYPES = [*("float16", "float32", "float64", "int8", "int32", "uint8", "uint16", "int64")]


@st.composite
def weights(draw):
    """A weight whose alphabet, skew and share of one value are drawn."""
    shape = draw(st.lists(st.integers(1, 40), min_size=1, max_size=3).map(tuple))
    shape = (*shape, draw(st.integers(20, 120)))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    alphabet = draw(st.sampled_from([1, 2, 3, 4, 16, 17, 200, 1024, 1030]))
    dtype = np.dtype(draw(st.sampled_from(DTYPES)))
    raw = rng.integers(0, 256, (alphabet, dtype.itemsize), np.uint8)
    book = raw.view(dtype).reshape(-1)
    shares = draw(st.sampled_from([1.0, 1.1, 2.0])) ** -np.arange(alphabet, dtype=float)
    chosen = rng.choice(alphabet, shape, p=shares / shares.sum())
    chosen[rng.random(shape) < draw(st.sampled_from([0.0, 0.6, 0.95]))] = alphabet // 2
    return book[chosen]


@settings(max_examples=60, deadline=None)
@given(st.lists(weights(), min_size=1, max_size=3), st.booleans())
def test_what_is_decoded_is_what_was_packed(arrays, segments):
    tensors = [numpy_helper.from_array(array, f"w{i}") for i, array in enumerate(arrays)]
    model = packed_models.of_weights(tensors, opset=20, ir_version=10)
    limit = portable_plan.LEVELS_LIMIT
    try:
        portable_plan.LEVELS_LIMIT = 0 if segments else limit
        out = packed.pack(model, "portable")
    finally:
        portable_plan.LEVELS_LIMIT = limit
    assert models.serial(packed.unpack(out)) == models.serial(model)
    assert out.ByteSize() <= model.ByteSize() + 100
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    session = onnxruntime.InferenceSession(models.serial(out), options)
    for array, got in zip(arrays, session.run(None, {}), strict=True):
        assert got.tobytes() == array.tobytes()
