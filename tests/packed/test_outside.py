"""What a model keeps outside its file lies in its folder, and all of it is read and counted."""

import os
import tracemalloc
from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from onnx import TensorProto, helper, numpy_helper

from mlflow_compress import packed
from mlflow_compress.cli.main import cli
from mlflow_compress.errors import SourceError, SourceNotFoundError
from mlflow_compress.packed.onnx.outside import check_text, inside, load_model, outside_files
from mlflow_compress.techniques import normalize
from mlflow_compress.tracking.source import identify
from tests.tiny import tiny_model


def outside(array, location, **more):
    """A tensor whose data are elsewhere."""
    tensor = TensorProto(
        name="w", data_type=TensorProto.FLOAT, dims=array.shape, data_location=TensorProto.EXTERNAL
    )
    for key, value in {"location": location, **more}.items():
        tensor.external_data.add(key=key, value=str(value))
    return tensor


def initializer(model, tensor):
    model.graph.initializer[0].CopyFrom(tensor)
    model.graph.initializer[0].name = "w1"


def constant(model, tensor):
    del model.graph.initializer[0]
    model.graph.node.insert(0, helper.make_node("Constant", [], ["w1"], value=tensor))


def nested(model, tensor):
    inner = onnx.GraphProto(name="inner", initializer=[tensor])
    inner.node.append(helper.make_node("Identity", ["w"], ["out"]))
    inner.output.append(helper.make_tensor_value_info("out", TensorProto.FLOAT, [16, 64]))
    flag = numpy_helper.from_array(np.array(True), "flag")
    del model.graph.initializer[0]
    model.graph.initializer.append(flag)
    node = helper.make_node("If", ["flag"], ["w1"], then_branch=inner, else_branch=inner)
    model.graph.node.insert(0, node)


def function(model, tensor):
    del model.graph.initializer[0]
    made = helper.make_function(
        "mine", "Weight", [], ["out"], [helper.make_node("Constant", [], ["out"], value=tensor)],
        [helper.make_opsetid("", 20)],
    )  # fmt: skip
    model.functions.append(made)
    model.opset_import.append(helper.make_opsetid("mine", 1))
    model.graph.node.insert(0, helper.make_node("Weight", [], ["w1"], domain="mine"))


PLACES = (initializer, constant, nested, function)
WEIGHT = numpy_helper.to_array(tiny_model().graph.initializer[0])


@pytest.fixture
def saved(tmp_path):
    """Return a function that saves the tiny model with its first weight elsewhere."""

    def save(location="w.bin", place=initializer, **more):
        model = tiny_model()
        place(model, outside(WEIGHT, location, **more))
        folder = tmp_path / "model"
        folder.mkdir(exist_ok=True)
        (folder / "w.bin").write_bytes(WEIGHT.tobytes())
        (folder / "m.onnx").write_bytes(model.SerializeToString())
        return folder / "m.onnx"

    return save


@pytest.mark.parametrize("place", PLACES)
def test_a_change_of_what_lies_outside_is_another_source(saved, place):
    path = saved(place=place)
    uri, before = identify(str(path), None)
    assert (uri, identify(str(path), None)[1]) == (str(path), before)
    (path.parent / "w.bin").write_bytes(bytes(WEIGHT.nbytes))
    assert identify(str(path), None)[1] != before


def a_link_out(folder):
    (folder.parent / "secret").write_bytes(WEIGHT.tobytes())
    (folder / "link").symlink_to("../secret")
    return "link"


def a_folder_that_leads_out(folder):
    (folder.parent / "elsewhere").mkdir()
    (folder.parent / "elsewhere/w.bin").write_bytes(WEIGHT.tobytes())
    (folder / "sub").symlink_to("../elsewhere")
    return "sub/w.bin"


def a_hard_link(folder):
    (folder / "hard.bin").hardlink_to(folder / "w.bin")
    return "hard.bin"


def a_fifo(folder):
    os.mkfifo(folder / "fifo")
    return "fifo"


REFUSED = r"leads out of the model's folder|no plain file|no path|another name too"
ODD = {
    "absolute": lambda folder: str(folder / "w.bin"),
    "device": lambda folder: "/dev/zero",
    "climbs": lambda folder: "../model/w.bin",
    "climbs inside": lambda folder: "sub/../w.bin",
    "windows": lambda folder: "C:\\w.bin",
    "backslashes": lambda folder: "..\\w.bin",
    "empty": lambda folder: "",
    "folder": lambda folder: ".",
    "link": a_link_out,
    "folder that is a link": a_folder_that_leads_out,
    "hard link": a_hard_link,
    "fifo": a_fifo,
}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("odd", ODD)
def test_what_leads_elsewhere_is_refused(saved, place, odd):
    folder = saved().parent
    path = saved(ODD[odd](folder), place)
    with pytest.raises(SourceError, match=REFUSED):
        load_model(path, "m")
    with pytest.raises(SourceError):
        identify(str(path), None)
    done = CliRunner().invoke(cli, ["pack", str(path), "-o", str(folder / "out.onnx")])
    assert (done.exit_code, done.stderr.count("\n")) == (2, 1), done.stderr
    assert not (folder / "out.onnx").exists()


@pytest.mark.parametrize(
    ("more", "error"),
    [
        ({"offset": "abc"}, SourceError),
        ({"offset": "-5"}, SourceError),
        ({"length": "-1"}, SourceError),
        ({"offset": "٣"}, SourceError),
        ({"offset": 1 << 62}, SourceNotFoundError),
        ({"length": 1 << 62}, SourceNotFoundError),
        ({"offset": 8, "length": WEIGHT.nbytes}, SourceNotFoundError),
    ],
)
def test_places_that_are_not_in_the_file_are_refused(saved, more, error):
    with pytest.raises(error, match="external data of tensor 'w1': "):
        load_model(saved(**more), "m")


@pytest.mark.parametrize("place", PLACES)
def test_what_lies_inside_is_read(saved, place):
    path = saved(place=place)
    (path.parent / "sub").mkdir()
    (path.parent / "w.bin").rename(path.parent / "sub/w.bin")
    model = tiny_model()
    place(model, outside(WEIGHT, "sub/w.bin"))
    path.write_bytes(model.SerializeToString())
    assert outside_files(model, path.parent, "m") == [path.parent / "sub/w.bin"]
    assert WEIGHT.tobytes() in load_model(path, "m").SerializeToString()


@pytest.mark.parametrize("data", [5, None, ["a"], "", "../x.onnx", "/etc/passwd", "a\0b"])
def test_names_in_mlmodel_files_lead_nowhere_else(tmp_path, data):
    with pytest.raises(SourceError):
        inside(tmp_path, data, "data of the MLmodel file")


def test_a_model_is_no_device(tmp_path):
    with pytest.raises(SourceError, match="is no plain file"):
        load_model(Path("/dev/zero"), "source '/dev/zero'")
    done = CliRunner().invoke(cli, ["verify", "/dev/zero"])
    assert (done.exit_code, "is no plain file" in done.stderr) == (2, True)


TEXTS = {
    "an initializer": "w1",
    "an input": "x",
    "an output": "y",
    "a value": "h",
    "an operator": "Relu",
    "a graph": "tiny",
    "a size": "rows",
    "an attribute": "note_name",
    "metadata": "note_key",
    "a function": "Own",
}


def with_bytes(text):
    """The model, with bytes that are no text in the place of one."""
    model = tiny_model()
    model.graph.node[1].name, model.graph.node[1].doc_string = "node_name", "node_text"
    model.graph.node[1].attribute.append(helper.make_attribute("note_name", 1))
    model.metadata_props.add(key="note_key", value="v")
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "rows"
    model.functions.append(
        helper.make_function("own", "Own", ["a"], ["b"], [helper.make_node("Neg", ["a"], ["b"])],
                             [helper.make_opsetid("", 20)])
    )  # fmt: skip
    old = model.SerializeToString()
    new = old.replace(text.encode(), b"\xff" * len(text))
    assert new != old
    return new


@pytest.mark.parametrize("what", TEXTS)
@pytest.mark.parametrize("command", ["pack", "portable", "compress", "normalize"])
def test_texts_that_are_none_are_one_line(tmp_path, what, command):
    path = tmp_path / "odd.onnx"
    path.write_bytes(with_bytes(TEXTS[what]))
    if command == "normalize":
        with pytest.raises(SourceError, match="and texts of ONNX are UTF-8"):
            normalize(onnx.load(path))
        return
    np.savez(tmp_path / "rows.npz", x=np.zeros((64, 16), np.float32))
    more = {
        "pack": ["pack"],
        "portable": ["pack", "--profile", "portable"],
        "compress": ["compress", "--calibration", str(tmp_path / "rows.npz")],
    }[command]
    done = CliRunner().invoke(cli, [*more, str(path), "-o", str(tmp_path / "out.onnx")])
    assert done.exit_code == 2, done.output
    assert "and texts of ONNX are UTF-8" in done.output and done.output.count("\n") == 1
    assert not (tmp_path / "out.onnx").exists()


@pytest.mark.parametrize("text", ["node_name", "node_text"])
@pytest.mark.parametrize("profile", ["compact", "portable"])
def test_names_of_nodes_and_comments_come_back_as_they_are(tmp_path, text, profile):
    path, small, back = (str(tmp_path / name) for name in ("odd.onnx", "small.onnx", "back.onnx"))
    Path(path).write_bytes(with_bytes(text).replace(b"note_name", b"alpha_two"))
    packed.pack_file(path, small, profile)
    packed.unpack_file(small, back)
    one, other = (onnx.load(name).SerializeToString(deterministic=True) for name in (path, back))
    assert one == other


@pytest.mark.parametrize("version", [-1, 1 << 40])
@pytest.mark.parametrize("profile", ["compact", "portable"])
def test_an_ir_version_that_is_none_is_refused(version, profile):
    model = tiny_model()
    model.ir_version = version
    with pytest.raises(SourceError, match=f"IR version {version}, which is none"):
        packed.pack(model, profile)


def test_weights_are_not_copied_to_look_for_texts():
    model = tiny_model()
    model.graph.initializer.append(
        numpy_helper.from_array(np.zeros(2_000_000, np.float32), "large")
    )
    tracemalloc.start()
    try:
        check_text(model, "the model")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 1_000_000
