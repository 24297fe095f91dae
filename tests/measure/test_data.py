import numpy as np
import pandas
import pytest

from mlflow_compress.errors import DataError, DataNotFoundError
from mlflow_compress.measure import Dataset, check_fits, load_dataset


@pytest.fixture
def x(rng):
    return rng.normal(size=(6, 4)).astype(np.float32)


@pytest.fixture
def labels():
    return np.array([0, 1, 2, 0, 1, 2])


def test_an_npz_gives_inputs_and_labels(tmp_path, x, labels):
    np.savez(tmp_path / "eval.npz", x=x, labels=labels)
    data = load_dataset(str(tmp_path / "eval.npz"))
    np.testing.assert_array_equal(data.inputs["x"], x)
    np.testing.assert_array_equal(data.labels, labels)
    assert (data.name, data.rows, data.ref.rows) == ("eval", 6, 6)
    named = load_dataset(str(tmp_path / "eval.npz"), name="test", limit=2)
    assert (named.name, named.rows, len(named.labels)) == ("test", 2, 2)


def test_the_digest_is_of_the_content_not_of_the_name(x, labels):
    digest = Dataset({"x": x}, labels).digest
    assert len(digest) == 64
    assert Dataset({"x": x.copy()}, labels, name="other").digest == digest
    others = [
        Dataset({"x": x}),
        Dataset({"z": x}, labels),
        Dataset({"x": x.astype(np.float64)}, labels),
        Dataset({"x": x.reshape(6, 2, 2)}, labels),
        Dataset({"x": x + 1}, labels),
        Dataset({"x": x}, labels[::-1].copy()),
    ]
    assert len({digest, *(other.digest for other in others)}) == 7


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_a_table_is_stacked_into_the_single_input(tmp_path, model, x, labels, suffix):
    frame = pandas.DataFrame(x, columns=list("abcd")).assign(labels=labels)
    path = tmp_path / f"t.{suffix}"
    frame.to_csv(path, index=False) if suffix == "csv" else frame.to_parquet(path)
    data = check_fits(load_dataset(str(path)), model)
    np.testing.assert_allclose(data.inputs["x"], x, rtol=1e-6)
    assert data.inputs["x"].dtype == np.float32
    np.testing.assert_array_equal(data.labels, labels)


def test_text_labels_of_a_table_are_kept(tmp_path, model, x):
    frame = pandas.DataFrame(x, columns=list("abcd")).assign(labels=list("pqrpqr"))
    frame.to_csv(tmp_path / "t.csv", index=False)
    assert load_dataset(str(tmp_path / "t.csv")).labels.tolist() == list("pqrpqr")


def test_a_function_gives_arrays_or_a_dataset(tmp_path, monkeypatch, x, labels):
    (tmp_path / "some_rows.py").write_text(
        "import numpy as np\n"
        "from mlflow_compress.measure import Dataset\n"
        "def arrays(): return {'x': np.ones((3, 4)), 'labels': [0, 1, 2]}\n"
        "def dataset(): return Dataset({'x': np.ones((2, 4))}, name='mine')\n"
        "def wrong(): return 3\n"
    )
    monkeypatch.chdir(tmp_path)
    assert load_dataset("some_rows:arrays").labels.tolist() == [0, 1, 2]
    assert load_dataset("some_rows.py:arrays").name == "arrays"
    assert load_dataset("some_rows:dataset").name == "mine"
    with pytest.raises(DataError, match="returned a int, expected a mapping"):
        load_dataset("some_rows:wrong")
    with pytest.raises(DataNotFoundError, match="has no function 'none'"):
        load_dataset("some_rows:none")


@pytest.mark.parametrize(
    ("spec", "error", "message"),
    [
        ("gone.npz", DataNotFoundError, r"data file 'gone\.npz' does not exist"),
        ("no_such_module_here:f", DataNotFoundError, "there is no module 'no_such_module_here'"),
        ("gone.py:f", DataNotFoundError, r"Python file 'gone\.py' does not exist"),
        ("data.txt", DataError, r"expected a file that ends in \.npz, \.csv, \.parquet, or module"),
    ],
)
def test_data_that_do_not_exist(spec, error, message):
    with pytest.raises(error, match=message):
        load_dataset(spec)


def test_a_file_that_is_no_npz_is_refused(tmp_path, x):
    (tmp_path / "bad.npz").write_bytes(b"not a zip")
    with pytest.raises(DataError, match=r"bad\.npz' is no \.npz of plain arrays"):
        load_dataset(str(tmp_path / "bad.npz"))
    np.savez(tmp_path / "objects.npz", x=np.array([{}, {}], dtype=object))
    with pytest.raises(DataError, match=r"objects\.npz' is no \.npz of plain arrays"):
        load_dataset(str(tmp_path / "objects.npz"))


@pytest.mark.parametrize(
    ("inputs", "labels", "message"),
    [
        ({"x": np.ones((3, 2))}, np.zeros(2), "labels do not match the inputs: 2 labels for 3 row"),
        ({"x": np.ones((3, 2)), "z": np.ones((2, 2))}, None, "'z' has 2 rows, 'x' has 3"),
        ({"x": np.ones((0, 2))}, None, "there are no rows"),
        ({}, None, "there are no inputs"),
        (
            {"x": np.array([[1.0], [np.nan]])},
            None,
            "'x' has NaN or infinite values, first in row 1",
        ),
        ({"x": np.array([1, None], dtype=object)}, None, "'x' holds Python objects"),
        ({"x": np.float32(1)}, None, "'x' is one number"),
    ],
)
def test_arrays_that_are_no_rows_are_refused(inputs, labels, message):
    with pytest.raises(DataError, match=message):
        Dataset(inputs, labels)


def test_float64_is_narrowed_to_what_the_model_takes(model, x):
    data = check_fits(Dataset({"x": x.astype(np.float64)}), model)
    assert data.inputs["x"].dtype == np.float32


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        (
            {"z": np.ones((2, 4), "f4")},
            "the model's input 'x' is missing; the data have z, the mod",
        ),
        ({"x": np.ones((2, 5), "f4")}, r"'x' has shape \[2, 5\], the model takes \[rows, 4\]"),
        ({"x": np.ones((2, 4, 1), "f4")}, r"'x' has shape \[2, 4, 1\], the model takes \[rows, 4"),
        ({"x": np.ones((2, 4), "u1")}, "'x' is uint8, the model takes float32"),
        ({"x": np.ones((2, 4), "f4"), "q": np.ones(2)}, "the model has no input 'q'; it takes x"),
    ],
)
def test_inputs_that_do_not_fit_are_refused(model, inputs, message):
    with pytest.raises(DataError, match=message):
        check_fits(Dataset(inputs), model)
