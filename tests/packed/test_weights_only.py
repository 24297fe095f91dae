"""Models whose weights alone are integers run as fast as in float: they are unpacked once."""

import numpy as np
import onnxruntime
import pytest

from mlflow_compress import packed
from mlflow_compress.techniques import Context
from mlflow_compress.techniques.quantize import QuantizeSettings
from mlflow_compress.techniques.quantize.onnx import quantize
from mlflow_compress.techniques.weight_only import WeightOnlySettings
from mlflow_compress.techniques.weight_only.onnx import weight_only
from mlflow_compress.testing.models import contract_model, contract_rows

ENTRY = "session.disable_quant_qdq"


def opened(model):
    return packed.load(packed.pack(model).SerializeToString(), threads=1)


def test_integer_weights_are_unpacked_when_the_session_is_opened():
    settings = WeightOnlySettings(bits=4, method="rtn", store="narrow")
    made = weight_only(contract_model(), settings, Context()).model
    session = opened(made)
    assert session.get_session_options().get_session_config_entry(ENTRY) == "1"
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry(ENTRY, "1")
    plain = onnxruntime.InferenceSession(made.SerializeToString(), options)
    rows = contract_rows()
    np.testing.assert_array_equal(session.run(None, rows)[0], plain.run(None, rows)[0])


def test_a_portable_file_gives_what_an_onnxruntime_alone_gives():
    settings = WeightOnlySettings(bits=8, method="rtn")
    made = packed.pack(weight_only(contract_model(), settings, Context()).model, "portable")
    alone = onnxruntime.InferenceSession(made.SerializeToString()).run(None, contract_rows())[0]
    loaded = packed.load(made.SerializeToString(), threads=1).run(None, contract_rows())[0]
    np.testing.assert_array_equal(loaded, alone)


def test_where_activations_are_integers_too_layers_stay_fused():
    made = quantize(contract_model(), QuantizeSettings(), Context(contract_rows())).model
    with pytest.raises(RuntimeError, match="does not have"):
        opened(made).get_session_options().get_session_config_entry(ENTRY)
