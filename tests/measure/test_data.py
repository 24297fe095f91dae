import gzip
import os
import tracemalloc
import zipfile

import numpy as np
import pandas
import pytest

from mlflow_compress.errors import DataError, DataNotFoundError
from mlflow_compress.measure import Dataset, check_fits, dataset_of, load_dataset
from mlflow_compress.measure.data import ONLY_INPUT
from mlflow_compress.measure.spool import spool


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


def test_the_digest_of_ordinary_rows_never_changes():
    # it is in the tags of registered versions, which are compared by it
    data = Dataset({"x": np.arange(6, dtype=np.float32).reshape(3, 2)}, np.array([0, 1, 2]))
    assert data.digest == "9ad85ac38b3a69e1d3ab05ba36f8b4db3f5b8d108558917d4596bc60140a79a6"


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
        (
            "data.txt",
            DataError,
            r"expected a file that ends in \.npz, \.csv, \.parquet, IDX files, or module",
        ),
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


def batches(x, labels, size=2):
    for begin in range(0, len(x), size):
        yield x[begin : begin + size], labels[begin : begin + size]


def write_function(folder, body):
    (folder / "rows.py").write_text(f"import numpy as np\n\ndef load():\n    {body}\n")
    return f"{folder / 'rows.py'}:load"


def test_a_loader_of_pairs_is_read_once_and_fits_the_only_input(tmp_path, model, x, labels):
    np.savez(tmp_path / "a.npz", x=x, labels=labels)
    spec = write_function(
        tmp_path,
        f"d = np.load({str(tmp_path / 'a.npz')!r}); "
        "return zip(np.split(d['x'], 3), np.split(d['labels'], 3))",
    )
    data = check_fits(load_dataset(spec), model)
    np.testing.assert_array_equal(data.inputs["x"], x)
    np.testing.assert_array_equal(data.labels, labels)
    same = check_fits(Dataset({"x": x}, labels), model)
    assert data.digest == same.digest


def test_of_a_loader_no_more_is_read_than_asked_for(x, labels):
    given = batches(x, labels)
    made = spool(given, "rows", limit=3)
    np.testing.assert_array_equal(made[ONLY_INPUT], x[:3])
    assert len(list(given)) == 1


def test_rows_of_a_loader_lie_on_disk_and_leave_nothing_behind(tmp_path, monkeypatch, x, labels):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    made = spool(batches(x, labels), "rows")
    assert isinstance(made[ONLY_INPUT], np.memmap)
    assert list(tmp_path.iterdir()) == []


def test_a_torch_loader_is_one_too(x, labels):
    torch = pytest.importorskip("torch")
    rows = torch.utils.data.TensorDataset(torch.from_numpy(x), torch.from_numpy(labels))
    made = spool(torch.utils.data.DataLoader(rows, batch_size=4), "rows")
    np.testing.assert_array_equal(made[ONLY_INPUT], x)
    np.testing.assert_array_equal(made["labels"], labels)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([], "the loader gave no rows"),
        ([{}], "batch 0 of the loader is empty"),
        ([{"x": np.zeros((2, 3))}, {"z": np.zeros((2, 3))}], "batch 1 has z, batch 0 had x"),
        ([{"x": np.zeros((2, 3))}, {"x": np.zeros(2)}], "'x' of batch 1 holds float64 with 1 axes"),
        ([{"x": np.zeros(2)}, {"x": np.zeros(2, int)}], "'x' of batch 1 holds int64 with 1 axes"),
        ([(np.zeros((2, 3)), np.zeros(3))], "'labels' of batch 0 does not have the batch's 2 rows"),
        ([["a", "b"]], "batch 0 of the loader holds str"),
    ],
)
def test_a_loader_that_does_not_fit_is_refused(given, message):
    with pytest.raises(DataError, match=message):
        spool(given, "rows")


def test_rows_without_a_name_do_not_fit_several_inputs(x):
    from onnx import TensorProto, helper

    values = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["n", 4]) for n in "ab"]
    out = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 4])
    graph = helper.make_graph([helper.make_node("Add", ["a", "b"], ["y"])], "g", values, [out])
    with pytest.raises(DataError, match="the rows name no input, and the model takes a, b"):
        check_fits(Dataset({ONLY_INPUT: x}), helper.make_model(graph))


def write_idx(path, array, kind=8):
    head = bytes([0, 0, kind, array.ndim]) + np.array(array.shape, ">u4").tobytes()
    data = head + array.tobytes()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_a_folder_of_idx_files_is_training_data(tmp_path, model, rng, suffix):
    images = rng.integers(0, 256, (5, 2, 2)).astype(np.uint8)
    write_idx(tmp_path / f"train-images-idx3-ubyte{suffix}", images)
    write_idx(tmp_path / f"train-labels-idx1-ubyte{suffix}", np.arange(5, dtype=np.uint8))
    write_idx(tmp_path / f"t10k-images-idx3-ubyte{suffix}", images[:2])
    data = check_fits(load_dataset(str(tmp_path)), model)
    np.testing.assert_allclose(data.inputs["x"], images.reshape(5, 4) / 255, rtol=1e-6)
    assert data.labels.tolist() == [0, 1, 2, 3, 4]
    test = load_dataset(str(tmp_path / f"t10k-images-idx3-ubyte{suffix}"))
    assert (test.rows, test.labels) == (2, None)


def test_a_broken_idx_file_is_refused(tmp_path):
    path = tmp_path / "train-images-idx3-ubyte"
    with pytest.raises(DataNotFoundError, match="holds no train-images"):
        load_dataset(str(tmp_path))
    path.write_bytes(b"nothing of the kind")
    with pytest.raises(DataError, match="is no IDX file"):
        load_dataset(str(tmp_path))
    write_idx(path, np.zeros((2, 2, 2), np.uint8))
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(DataError, match="holds 7 bytes of data, its header says 8"):
        load_dataset(str(path))
    path.unlink()
    os.mkfifo(path)  # reading one waits for ever
    with pytest.raises(DataError, match="is no plain file"):
        load_dataset(str(path))
    with pytest.raises(DataNotFoundError, match="does not exist"):
        load_dataset(str(tmp_path / "t10k-images-idx3-ubyte"))


def test_an_idx_file_of_more_axes_than_rows_have_is_none(tmp_path):
    path = tmp_path / "train-images-idx3-ubyte"
    for axes in (9, 65):
        path.write_bytes(bytes([0, 0, 8, axes]) + np.ones(axes, ">u4").tobytes() + b"1")
        with pytest.raises(DataError, match="is no IDX file"):
            load_dataset(str(path))


@pytest.mark.parametrize("sizes", [(2, 2, 2), (1 << 31,) * 3])
def test_a_compressed_idx_file_takes_no_more_memory_than_it_can_hold(tmp_path, sizes):
    path = tmp_path / "train-images-idx3-ubyte.gz"
    head = bytes([0, 0, 8, 3]) + np.array(sizes, ">u4").tobytes()
    path.write_bytes(gzip.compress(head + bytes(30_000_000)))
    tracemalloc.start()
    try:
        with pytest.raises(DataError, match="bytes of data, its header says"):
            load_dataset(str(path))
        assert tracemalloc.get_traced_memory()[1] < 70_000_000
    finally:
        tracemalloc.stop()


def test_labels_have_names(tmp_path, x, labels):
    boxes = np.zeros((6, 2, 4))
    np.savez(tmp_path / "a.npz", **{"x": x, "labels": labels, "labels.boxes": boxes})
    data = load_dataset(str(tmp_path / "a.npz"), limit=4)
    assert list(data.inputs) == ["x"]
    assert {name: len(array) for name, array in data.labels_by_name.items()} == {
        "labels": 4,
        "boxes": 4,
    }
    only = dataset_of({"x": x, "labels.boxes": boxes}, "data")
    assert only.labels is None
    assert only.has_labels
    assert not Dataset({"x": x}).has_labels
    plain = Dataset({"x": x}, labels)
    digests = {one.digest for one in (data, only, plain, Dataset({"x": x}))}
    assert len(digests) == 4
    with pytest.raises(DataError, match=r"labels\.boxes do not match the inputs: 5 labels for 6"):
        dataset_of({"x": x, "labels.boxes": boxes[:5]}, "data")


def test_the_digest_of_rows_is_what_it_was():
    """Verdicts and trials of before are found by it."""
    data = Dataset({"x": np.arange(6, dtype=np.float32).reshape(3, 2)}, np.array([0, 1, 2]))
    assert data.digest == ("9ad85ac38b3a69e1d3ab05ba36f8b4db3f5b8d108558917d4596bc60140a79a6")


def header(shape):
    text = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}".encode()
    text += b" " * (-(len(text) + 11) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (header("(10**9, 16)"), "is no .npz of plain arrays"),
        (header("(1000000000, 16)"), r"array 'x' of shape \[1000000000, 16\] takes 64,000,000,000"),
        (header("(3, 4)") + bytes(20), r"array 'x' of shape \[3, 4\] takes 48 bytes, and the file"),
        (header("(-1, 4)") + bytes(48), "no .npz of plain arrays|x"),
        (header("(3, 4)")[:20], "is no .npz of plain arrays"),
    ],
    ids=["no shape", "terabytes", "too little", "negative", "cut off"],
)
def test_an_npz_whose_headers_lie_is_one_line(tmp_path, content, reason):
    with zipfile.ZipFile(tmp_path / "lies.npz", "w") as file:
        file.writestr("x.npy", content)
    with pytest.raises(DataError, match=reason):
        load_dataset(str(tmp_path / "lies.npz"))


@pytest.mark.parametrize("content", ["npy", "nothing"])
def test_an_npz_that_is_none_is_one_line(tmp_path, content):
    path = tmp_path / "rows.npz"
    with path.open("wb") as file:
        if content == "npy":
            np.save(file, np.ones(3))
    with pytest.raises(DataError, match=r"rows\.npz' is no \.npz of plain arrays.*numpy\.savez"):
        load_dataset(str(path))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (
            "def rows():\n    raise KeyError('a')\n",
            r"data '.*:rows' failed with KeyError: 'a' \(own_",
        ),
        ("def rows():\n    return np.ones(3)\n", r"failed with NameError: name 'np' .* line 2\)"),
        (
            "def rows():\n    yield {'x': 1 / 0}\n",
            "failed with ZeroDivisionError: division by zero",
        ),
        ("def rows(:\n", r"'.*own_rows.py' failed with SyntaxError: "),
        (
            "def rows():\n    raise RuntimeError\n",
            r"failed with RuntimeError \(own_rows.py, line 2",
        ),
    ],
)
def test_a_function_of_the_users_that_fails_is_named_with_its_line(tmp_path, text, says):
    (tmp_path / "own_rows.py").write_text(text)
    with pytest.raises(DataError, match=says) as caught:
        load_dataset(f"{tmp_path}/own_rows.py:rows")
    assert "\n" not in str(caught.value)
