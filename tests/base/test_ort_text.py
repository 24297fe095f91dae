import onnxruntime as ort
import pytest

from mlflow_compress.base.ort_text import ort_line
from mlflow_compress.measure.runner import ORT_ERRORS


def test_what_onnxruntime_says_is_one_line_of_bounded_length():
    with pytest.raises(ORT_ERRORS) as caught:
        ort.InferenceSession(b"no model")
    assert "\n" not in ort_line(caught.value)
    assert ort_line(RuntimeError("Got invalid\n dimensions\n\n")) == "Got invalid dimensions"
    assert len(ort_line(RuntimeError("x " * 1000))) <= 401


@pytest.mark.parametrize(
    ("said", "advice"),
    [
        ("No corresponding Numpy type for Tensor Type. bfloat16", "let the model cast to float32"),
        ("Numpy_type 256 can't be converted", "let the model cast to float32"),
        ("Could not find an implementation for DequantizeLinear(28)", "an earlier opset"),
        ("com.me:Whatever(-1) is not a registered function/op", "functions in the model"),
        ("Unsupported model IR version: 99", "upgrade onnxruntime"),
    ],
)
def test_it_comes_with_what_helps(said, advice):
    assert ort_line(RuntimeError(said)).startswith(f"{said} (")
    assert advice in ort_line(RuntimeError(said))
