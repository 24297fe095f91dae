"""Which axis the rows are along: what is certain is found, what is not is asked for."""

import numpy as np
import pytest

from mlflow_compress.errors import DataError, SourceError, UnsaidError
from mlflow_compress.measure import check_fits, dataset_of, load_dataset
from mlflow_compress.records import InputLayout, InputSpec
from mlflow_compress.rows import Ragged
from tests.rows import made_models as made


def zeros(*shape, dtype=np.float32):
    return np.zeros(shape, dtype)


def fit(model, data, specs=None):
    return check_fits(dataset_of(data, "rows", specs), model, specs)


@pytest.mark.parametrize(
    ("model", "data", "specs", "question", "lines"),
    [
        (made.gru(), {"x": zeros(1, 9, 6)}, {}, "'h0' is missing", "h0: {axis: 1, state_of: hn}"),
        (
            made.with_threshold(),
            {"x": zeros(9, 16)},
            {},
            "'scale' is missing",
            "scale: {value: 0}",
        ),
        (
            made.sound(),
            {"signal": zeros(9, 5, 16)},
            {},
            r"'signal' has shape \[9, 5, 16\], the model takes \[time, 16\]; it may take one row",
            "signal: {axis: none}",
        ),
        (
            made.sound(),
            {"signal": [zeros(5, 16), zeros(4, 16)]},
            {},
            "a row of 'signal' has 2 axes, as many as the model takes",
            "signal: {axis: none}",
        ),
        (
            made.tokens(8),
            {"ids": [zeros(5, dtype=int), zeros(8, dtype=int)], "mask": zeros(2, 8, dtype=int)},
            {},
            r"row 0 of 'ids' has shape \[5\], the model takes \[rows, 8\]",
            "ids: {mask: mask, padding: 0}",
        ),
        (
            made.gru(),
            {"x": zeros(1, 9, 6), "h0": zeros(1, 8, 12)},
            {"x": InputSpec(axis=1)},
            r"'h0' has shape \[1, 8, 12\], expected 9 rows along axis 1",
            "",
        ),
    ],
)
def test_what_cannot_be_told_is_asked_for(model, data, specs, question, lines):
    with pytest.raises(DataError, match=question) as caught:
        fit(model, data, specs)
    if lines:
        assert isinstance(caught.value, UnsaidError)
        assert caught.value.lines == f"data:\n  inputs:\n    {lines}"
        assert str(caught.value).endswith(caught.value.lines)


def test_an_input_with_fewer_rows_is_no_input_for_every_row():
    model = made.build(
        [made.helper.make_node("Add", ["a", "b"], ["y"])],
        [("a", made.FLOAT, ["n", 4]), ("b", made.FLOAT, ["n", 4])],
        [("y", made.FLOAT, ["n", 4])],
        {},
    )
    with pytest.raises(UnsaidError, match=r"'b' has shape \[8, 4\].* and the data have 9 rows"):
        fit(model, {"a": zeros(9, 4), "b": zeros(8, 4)})
    shared = fit(model, {"a": zeros(9, 4), "b": zeros(1, 4)})
    assert shared.layout.of("b") == InputLayout(0)
    assert shared.fed.example(2)["b"].shape == (2, 4)


def test_the_advice_for_an_input_of_another_number_works():
    """As the prompts are to which a model compares images."""
    model = made.build(
        [
            made.helper.make_node("Transpose", ["prompts"], ["t"]),
            made.helper.make_node("MatMul", ["images", "t"], ["y"]),
        ],
        [("images", made.FLOAT, ["i", 4]), ("prompts", made.FLOAT, ["p", 4])],
        [("y", made.FLOAT, ["i", "p"])],
        {},
    )
    data = {"images": zeros(9, 4), "prompts": zeros(3, 4)}
    with pytest.raises(UnsaidError) as asked:
        fit(model, data)
    assert asked.value.lines == "data:\n  inputs:\n    prompts: {axis: none}"
    fitted = fit(model, data, {"prompts": InputSpec(axis="none")})
    assert fitted.rows == 9 and fitted.fed.example(2)["prompts"].shape == (3, 4)


@pytest.mark.parametrize("where", ["input", "output"])
def test_a_type_that_onnx_does_not_have_is_said(where):
    model = made.images()
    getattr(model.graph, where)[0].type.tensor_type.elem_type = 1 << 20
    with pytest.raises(SourceError, match="has elements of type 1048576, which ONNX does not have"):
        fit(model, {"x": zeros(9, 3, 8, 8)})


def test_an_ordinary_model_has_no_layout_to_speak_of():
    data = fit(made.images(), {"image": zeros(4, 3, 8, 8)})
    assert (data.layout.unusual, data.shared, data.stream) == ({}, {}, None)


def test_rows_first_as_calls_were_recorded():
    data = fit(made.gru(), {"x": zeros(9, 1, 1, 6), "h0": zeros(9, 1, 1, 12)},
               {"x": InputSpec(axis=1), "h0": InputSpec(axis=1)})  # fmt: skip
    assert data.rows == 9
    assert data.fed.example(2)["h0"].shape == (1, 2, 12)


def test_labels_say_how_many_rows_there_are():
    data = fit(made.gru(steps="t"), {"x": zeros(30, 9, 6), "labels": np.arange(9) % 4},
               {"h0": InputSpec(value=0)})  # fmt: skip
    assert (data.rows, data.layout.of("x")) == (9, InputLayout(1))


def test_lengths_beside_a_padded_array_cut_its_rows(tmp_path):
    lengths, ids = np.array([2, 4, 3]), np.arange(12).reshape(3, 4)
    np.savez(tmp_path / "rows.npz", ids=ids, **{"ids.lengths": lengths})
    data = load_dataset(str(tmp_path / "rows.npz"))
    assert isinstance(data.inputs["ids"], Ragged)
    assert [row.tolist() for row in data.inputs["ids"]] == [[0, 1], [4, 5, 6, 7], [8, 9, 10]]
    sizes = np.array([[2, 1], [3, 3]])
    cut = dataset_of({"image": zeros(2, 3, 3), "image.lengths": sizes}, "rows")
    assert cut.inputs["image"].shapes == [(2, 1), (3, 3)]
    with pytest.raises(DataError, match=r"'ids.lengths' must lie between 0 and the size of 'ids'"):
        dataset_of({"ids": ids, "ids.lengths": lengths + 9}, "rows")


def test_the_first_rows_of_a_file_are_those_of_every_input(tmp_path):
    np.savez(tmp_path / "rows.npz", x=zeros(9, 6), h0=zeros(2, 9, 12))
    data = load_dataset(str(tmp_path / "rows.npz"), limit=4)
    assert (data.rows, data.shared["h0"].shape) == (4, (2, 4, 12))


@pytest.mark.parametrize("wrong", [25, -21])
def test_ids_beyond_the_table_are_named(wrong):
    ids = np.full((9, 4), 3)
    ids[5, 2] = wrong
    message = f"'ids' has the number {wrong}, the model's table 'table' has 20 entries"
    with pytest.raises(DataError, match=message):
        fit(made.tokens(), {"ids": ids, "mask": np.ones((9, 4), int)})


def test_a_bool_mask_is_taken_as_it_is():
    model = made.build(
        [
            made.helper.make_node("Where", ["keep", "x", "zero"], ["k"]),
            made.helper.make_node("MatMul", ["k", "w"], ["y"]),
        ],
        [("x", made.FLOAT, ["n", 16]), ("keep", made.BOOL, ["n", 16])],
        [("y", made.FLOAT, ["n", 8])],
        {"w": made.weights(16, 8), "zero": np.float32(0)},
    )
    assert fit(model, {"x": zeros(9, 16), "keep": zeros(9, 16, dtype=bool)}).rows == 9
    with pytest.raises(DataError, match="'keep' is float32, the model takes bool"):
        fit(model, {"x": zeros(9, 16), "keep": zeros(9, 16)})
