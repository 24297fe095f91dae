"""What onnxruntime's quantizers trip over is left in float by name, or it is said why."""

import re
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from onnx import TensorProto, helper
from onnxruntime.quantization import calibrate

from mlflow_compress.errors import TechniqueError
from mlflow_compress.records import Recipe, Step
from mlflow_compress.techniques import Context, apply_recipe, normalize
from tests.techniques.graphs import (
    ROWS,
    applied,
    attention,
    both_ways,
    choosing,
    model_of,
    node,
    typed,
    weights,
)


def in_a_branch():
    return model_of(
        choosing("x"), {"zero": np.float32(0), "s": weights(16, 8), "t": weights(16, 8)}
    )


NOTHING = "found no weights to quantize in the main graph"
WITHOUT = {
    "half numbers": (lambda: typed(both_ways(), TensorProto.FLOAT16),
                     f"{NOTHING}: weight 'w' is float16 .export the model in float32"),
    "doubles": (lambda: typed(both_ways(), TensorProto.DOUBLE),
                f"{NOTHING}: weight 'w' is double .export the model in float32"),
    "weights in branches": (in_a_branch, f"{NOTHING}: MatMul '.*' is inside a node .weight_only"),
    "no weights": (lambda: model_of([node("Sign", "x", "y")], {}), f"{NOTHING} .leave this step"),
}  # fmt: skip
SETTINGS = {
    "minmax": {},
    "percentile": {"method": "percentile"},
    "entropy": {"method": "entropy"},
    "every option": {"equalize": True, "correct_bias": True, "keep_float": -1},
    "dynamic": None,
}


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
@pytest.mark.parametrize("kind", WITHOUT)
def test_where_nothing_can_be_quantized_it_is_said_why(kind, settings):
    make, told = WITHOUT[kind]
    model = normalize(make())
    (value,) = model.graph.input
    dtype = helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
    step = Step("dynamic", {}) if settings is None else Step("quantize", settings)
    context = Context(calibration={"x": ROWS.astype(dtype)})
    with pytest.raises(TechniqueError, match=told):
        apply_recipe(model, Recipe((step,), "compact"), context)


def scaled(by):
    """A layer between values at the end of single precision."""
    nodes = [
        node("Mul", "x by", "far"),
        node("MatMul", "far w", "h"),
        node("Mul", "h back", "near"),
        node("MatMul", "near v", "y"),
    ]
    held = {"by": np.float32(by), "back": np.float32(1 / by), "w": weights(16, 16)}
    return model_of(nodes, held | {"v": weights(16, 8)})


def passed_through():
    model = model_of([node("MatMul", "x w", "y")], {"w": weights(16, 8)})
    model.graph.output.append(model.graph.input[0])
    model.graph.output.add().CopyFrom(
        helper.make_tensor_value_info("w", TensorProto.FLOAT, [16, 8])
    )
    return model


def biases():
    """A Gemm's bias as one number, as a row, and as one for each row of the batch."""
    nodes = [
        node("Gemm", "x w one", "h"),
        node("Relu", "h", "r"),
        node("Gemm", "r w2 row", "g"),
        node("Gemm", "g w3 column", "y"),
    ]
    held = {"one": np.float32(0.3), "row": weights(1, 16), "column": weights(96, 1)}
    held |= {name: weights(16, 16) for name in ("w", "w2", "w3")}
    return model_of(nodes, held, inputs=(("x", [96, 16]),))


def grouped():
    nodes = [
        node("Reshape", "x shape", "i"),
        node("ConvTranspose", "i k b", "t", group=2),
        node("Relu", "t", "r"),
        node("Flatten", "r", "f"),
        node("MatMul", "f v", "y"),
    ]
    held = {"shape": np.array([-1, 4, 2, 2]), "k": weights(4, 3, 2, 2), "b": weights(6)}
    return model_of(nodes, held | {"v": weights(54, 8)})


def not_inferred():
    """onnx does not infer what an operator of onnxruntime's gives."""
    nodes = [
        node("MatMul", "x w", "h"),
        helper.make_node("QuickGelu", ["h"], ["g"], domain="com.microsoft"),
        node("Reshape", "g shape", "i"),
        node("InstanceNormalization", "i s t", "n"),
        node("Flatten", "n", "y"),
    ]
    held = {"shape": np.array([-1, 4, 4]), "w": weights(16, 16), "s": weights(4), "t": weights(4)}
    return model_of(nodes, held, domains=["com.microsoft"])


def vector():
    return model_of(
        [node("MatMul", "x w", "h"), node("MatMul", "h v", "s"), node("Unsqueeze", "s one", "y")],
        {"w": weights(16, 16), "v": weights(16), "one": np.array([1])},
    )


ODD = {
    "tiny values": lambda: scaled(1e-38),
    "huge values": lambda: scaled(1e37),
    "infinite mask": lambda: attention(-np.inf),
    "inputs and weights as outputs": passed_through,
    "biases that are no row": biases,
    "grouped ConvTranspose": grouped,
    "values of a type that is not inferred": not_inferred,
    "a weight that is a vector": vector,
}


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
@pytest.mark.parametrize("kind", ODD)
def test_what_the_quantizers_trip_over_is_quantized_or_left_in_float(kind, settings, evaluate):
    model = ODD[kind]()
    less = {"reduce_range": True}
    step = Step("dynamic", less) if settings is None else Step("quantize", settings | less)
    made = apply_recipe(
        normalize(model), Recipe((step,), "compact"), Context(calibration={"x": ROWS})
    ).model
    assert [value.name for value in made.graph.output] == [v.name for v in model.graph.output]
    before, after = evaluate(model, {"x": ROWS}), evaluate(made, {"x": ROWS})
    assert float(((before - after) ** 2).mean() / before.var()) < 0.02
    assert any(t.data_type == TensorProto.INT8 for t in made.graph.initializer)


def test_sums_that_saturate_are_told_from_rounding(evaluate, monkeypatch):
    """Weights that are all alike round to nothing, and their products to the largest there are."""
    model = model_of(
        [node("MatMul", "x w", "h"), node("Relu", "h", "r"), node("MatMul", "r v", "y")],
        {"w": np.full((16, 32), 0.25, np.float32), "v": weights(32, 8)},
    )
    rounded = applied(model, "quantize", reduce_range=True)
    made = applied(model, "quantize")
    before, after = (evaluate(m, {"x": ROWS[:32]}) for m in (model, made.model))
    error = float(((before - after) ** 2).mean() / before.var())
    told = [note for note in made.notes if "saturate on this processor" in note]
    assert len(told) == (error > 0.01)  # a processor with VNNI adds them up in 32 bits
    assert not any("saturate" in note for note in rounded.notes)
    monkeypatch.setattr("mlflow_compress.techniques.quantize.sensitivity._WORTH_SAYING", -1)
    note = next(note for note in applied(model, "quantize").notes if "saturate" in note)
    lost = re.search(r"changes the outputs by (\S+) of their variance: reduce_range avoids", note)
    assert float(lost[1]) == pytest.approx(error, abs=0.02)


@pytest.mark.parametrize("method", ["percentile", "entropy"])
def test_several_threads_quantize_at_once_and_leave_the_library_as_it_was(method):
    before = vars(calibrate.HistogramCalibrater)["collect_data"]
    model = normalize(both_ways())
    recipe = Recipe((Step("quantize", {"method": method}),), "compact")

    def quantized(_):
        return apply_recipe(model, recipe, Context(calibration={"x": ROWS})).model

    with ThreadPoolExecutor(3) as pool:
        made = list(pool.map(quantized, range(6)))
    assert all(one == made[0] for one in made)
    assert vars(calibrate.HistogramCalibrater)["collect_data"] is before


@pytest.mark.parametrize("broken", [np.nan, np.inf, 3e38])
def test_rows_that_no_range_fits_are_blamed_and_not_the_model(broken):
    rows = np.full_like(ROWS, broken)
    recipe = Recipe((Step("quantize", {}),), "compact")
    with pytest.raises(TechniqueError, match=r"values that int8 cannot stand for: .*mend the rows"):
        apply_recipe(normalize(both_ways()), recipe, Context(calibration={"x": rows}))


@pytest.mark.parametrize("technique", ["quantize", "dynamic", "prune", "prune repair", "share"])
def test_weights_without_values_are_no_weights(technique, capfd):
    nothing = [node("MatMul", "x e", "none"), node("MatMul", "none f", "h"),
               node("Add", "h x", "s"), node("MatMul", "s w", "y")]  # fmt: skip
    held = {
        "e": np.zeros((16, 0), np.float32),
        "f": np.zeros((0, 16), np.float32),
        "w": weights(16, 8),
    }
    made = applied(model_of(nothing, held), *technique.split())
    assert made.model.graph.node
    assert "DPOTRI" not in "".join(capfd.readouterr())
