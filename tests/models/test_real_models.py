"""Every technique on models from the wild: it works, or it refuses by name; never silently wrong.

The suite runs the quick part; ``make models`` runs all of it.
"""

import os

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import checker

from mlflow_compress import packed, techniques
from mlflow_compress.errors import TechniqueError
from mlflow_compress.records import Recipe, Step
from mlflow_compress.techniques import Context
from tests.models.packages import MODELS

EVERYTHING = bool(os.environ.get("MLFLOW_COMPRESS_ALL_MODELS"))
RECIPES = {
    "nothing": [],
    "fold": [("fold", {})],
    "prune": [("fold", {}), ("prune", {"sparsity": 0.3})],
    "prune and repair": [("fold", {}), ("prune", {"sparsity": 0.3, "repair": True})],
    "shrink": [("fold", {}), ("shrink", {"ratio": 0.25, "repair": False})],
    "separable": [("fold", {}), ("separable", {"rank": 2, "max_error": 1.0})],
    "share": [("fold", {}), ("share", {"clusters": 256})],
    "share and repair": [("fold", {}), ("share", {"clusters": 256}), ("repair", {})],
    "quantize and repair": [("quantize", {}), ("repair", {})],
    "entropy_share": [("fold", {}), ("entropy_share", {"bits": 5.0})],
    "quantize": [("fold", {}), ("quantize", {})],
    "weight_only 8": [("weight_only", {"bits": 8})],
    "weight_only 4": [("fold", {}), ("weight_only", {"bits": 4, "method": "gptq"})],
    "dynamic": [("dynamic", {})],
    "float16": [("float16", {})],
}
SLOW = {
    "prune and repair",
    "share and repair",
    "quantize and repair",
    "entropy_share",
    "weight_only 8",
    "weight_only 4",
}
QUICK_MODELS = {"magika", "rapidocr cls", "silero vad", "text2tashkeel"}
QUANTIZED = "is the model quantized already"
REFUSED = {
    ("magika", "shrink"): "Reshape .* splits its channels",
    ("silero vad", "shrink"): "there are no layers that make any",
    ("text2tashkeel", "shrink"): "there are no layers that make any",
    ("silero vad", "separable"): "no convolution with weights of its own",  # all are in an If
    ("text2tashkeel", "separable"): "no convolution with weights of its own",
    # its state has the rows as second axis, so that rows cannot be held back
    ("silero vad", "share and repair"): "does not run on the calibration inputs",
    ("rapidocr det v4", "dynamic"): "found no weights to quantize",
    ("silero vad", "quantize"): "found no weights to quantize",
    ("silero vad", "quantize and repair"): "found no weights to quantize",
    ("silero vad", "dynamic"): "found no weights to quantize",
    ("text2tashkeel", "prune"): QUANTIZED,
    ("text2tashkeel", "prune and repair"): QUANTIZED,
    ("text2tashkeel", "share"): QUANTIZED,
    ("text2tashkeel", "share and repair"): QUANTIZED,
    ("text2tashkeel", "entropy_share"): QUANTIZED,
    ("text2tashkeel", "weight_only 8"): QUANTIZED,
    ("text2tashkeel", "weight_only 4"): QUANTIZED,
    ("text2tashkeel", "quantize"): "'/embedding/Gather_output_0_DequantizeLinear'",
    ("text2tashkeel", "quantize and repair"): "'/embedding/Gather_output_0_DequantizeLinear'",
    ("text2tashkeel", "dynamic"): "'/embedding/Gather_output_0_DequantizeLinear'",
}
"""What is refused, and what the message has to say."""

EXACT = {"nothing", "fold"}
GENTLE = {"share", "weight_only 8", "float16"}
"""After these, outputs stay close to the source's."""


def chosen(model, recipe=None):
    if EVERYTHING:
        return True
    return model.name in QUICK_MODELS and (recipe not in SLOW or model.name == "rapidocr cls")


CASES = [
    pytest.param(model, recipe, id=f"{model.name}-{recipe}")
    for model in MODELS
    for recipe in RECIPES
    if chosen(model, recipe)
]


def run(data, inputs, weights_only=False):
    options = ort.SessionOptions()
    if weights_only:  # as packed models of integer weights are opened
        options.add_session_config_entry("session.disable_quant_qdq", "1")
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    session = (
        data if isinstance(data, ort.InferenceSession) else ort.InferenceSession(data, options)
    )
    wanted = {item.name for item in session.get_inputs()}
    return session.run(None, {name: value for name, value in inputs.items() if name in wanted})


def distance(got, wanted):
    """Largest difference, relative to the largest value."""
    scale = max(float(np.abs(wanted).max()), 1e-3)
    return float(np.abs(got.astype(np.float64) - wanted).max()) / scale if got.size else 0.0


@pytest.mark.parametrize(("real", "name"), CASES)
def test_works_or_refuses_by_name(real, name, tmp_path):
    rng = np.random.default_rng(0)
    calibration, one = real.inputs(4, rng), real.inputs(1, rng)
    source = onnx.load(real.path())
    before = run(source.SerializeToString(), one)
    recipe = Recipe(tuple(Step(word, settings) for word, settings in RECIPES[name]), "compact")
    context = Context(calibration=calibration)
    if (real.name, name) in REFUSED:
        with pytest.raises(TechniqueError, match=REFUSED[real.name, name]):
            techniques.apply_recipe(techniques.normalize(source), recipe, context)
        return
    model = techniques.apply_recipe(techniques.normalize(source), recipe, context).model
    checker.check_model(model, full_check=True)
    after = run(model.SerializeToString(), one, name.startswith("weight_only"))
    for got, wanted in zip(after, before, strict=True):
        assert got.shape == wanted.shape
        assert got.dtype == wanted.dtype
        assert np.isfinite(got).all()
        if name in EXACT:
            assert distance(got, wanted) < 1e-4
        if name in GENTLE and real.name in QUICK_MODELS:
            assert distance(got, wanted) < 0.5
    path = tmp_path / "packed.onnx"
    packed.save(packed.pack(model), path)
    assert packed.unpack(path) == model
    for got, wanted in zip(run(packed.load(path, threads=1), one), after, strict=True):
        np.testing.assert_array_equal(got, wanted)


@pytest.mark.parametrize("real", [pytest.param(m, id=m.name) for m in MODELS if chosen(m)])
def test_plain_onnxruntime_runs_the_portable_file(real, tmp_path):
    source = techniques.normalize(onnx.load(real.path()))
    one = real.inputs(1, np.random.default_rng(1))
    # an opset that is too low for the portable functions is raised on the way
    model = techniques.apply_recipe(source, Recipe((), "portable"), Context()).model
    path = tmp_path / "portable.onnx"
    packed.save(packed.pack(model, profile="portable"), path)
    checker.check_model(path, full_check=True)
    before, after = run(source.SerializeToString(), one), run(path.read_bytes(), one)
    for got, wanted in zip(after, before, strict=True):
        np.testing.assert_array_equal(got, wanted)
    assert path.stat().st_size <= real.path().stat().st_size + 4096
    assert packed.unpack(path) == model
