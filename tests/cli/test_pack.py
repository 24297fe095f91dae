import csv
import io
import json
import os

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from click.testing import CliRunner

from mlflow_compress import packed
from mlflow_compress.cli.main import cli
from mlflow_compress.cli.pack import inspect, pack, unpack, verify
from tests.packed.packed_models import mlp, of_weights


@pytest.fixture
def files(tmp_path):
    onnx.save(mlp(dims=(60, 40, 10)), tmp_path / "m.onnx")
    return tmp_path


def run(command, *args):
    return CliRunner().invoke(command, [str(arg) for arg in args])


@pytest.mark.parametrize("profile", ["compact", "portable"])
def test_there_and_back(files, profile):
    done = run(pack, files / "m.onnx", "-o", files / "p.onnx", "--profile", profile)
    assert done.exit_code == 0 and "times smaller" in done.output
    assert run(verify, files / "p.onnx").exit_code == 0
    assert run(unpack, files / "p.onnx", "-o", files / "u.onnx").exit_code == 0
    assert onnx.load(files / "u.onnx") == onnx.load(files / "m.onnx")


def test_an_older_model_is_raised_to_the_portable_profile_s_opset(files):
    weight = np.random.default_rng(0).normal(size=(60, 40)).astype(np.float32)
    nodes = [onnx.helper.make_node("Gemm", ["x", "w"], ["h"]),
             onnx.helper.make_node("Unsqueeze", ["h"], ["y"], axes=[1])]  # fmt: skip
    x, y = (onnx.helper.make_tensor_value_info(name, 1, None) for name in "xy")
    x.type.tensor_type.shape.dim.add().dim_param = "n"
    x.type.tensor_type.shape.dim.add().dim_value = 60
    graph = onnx.helper.make_graph(
        nodes, "g", [x], [y], [onnx.numpy_helper.from_array(weight, "w")]
    )
    opsets = [onnx.helper.make_opsetid("", 11)]
    old = onnx.helper.make_model(graph, ir_version=6, opset_imports=opsets)
    onnx.save(old, files / "old.onnx")
    done = run(pack, files / "old.onnx", "-o", files / "p.onnx", "--profile", "portable")
    assert done.exit_code == 0, done.output
    assert "opset raised from 11 to 13: the outputs are the same on invented" in done.output
    feed = {"x": np.random.default_rng(1).normal(size=(5, 60)).astype(np.float32)}
    one, two = (
        ort.InferenceSession(files / name).run(None, feed)[0] for name in ("old.onnx", "p.onnx")
    )
    np.testing.assert_array_equal(one, two)


@pytest.mark.parametrize("profile", ["compact", "portable"])
def test_what_cannot_be_read_back_is_not_left_behind(files, monkeypatch, profile):
    real = packed.pack_file

    def damaged(source, target, *args, **options):
        size = real(source, target, *args, **options)
        data = bytearray(target.read_bytes())
        data[len(data) * 2 // 3] ^= 1
        target.write_bytes(data)
        return size

    monkeypatch.setattr(packed, "pack_file", damaged)
    done = run(cli, "pack", files / "m.onnx", "-o", files / "p.onnx", "--profile", profile)
    assert done.exit_code == 1 and "cannot be read back, and was removed" in done.output
    assert not (files / "p.onnx").exists()


@pytest.mark.parametrize("profile", ["compact", "portable"])
def test_numbers_that_protobuf_writes_short_are_read_back(files, profile):
    """A million numbers of eight bytes, in a file of one byte each."""
    values = np.random.default_rng(0).integers(0, 100, 1_000_000)
    table = onnx.helper.make_tensor("t", onnx.TensorProto.INT64, [1_000_000], values.tolist())
    x, y = (onnx.helper.make_tensor_value_info(name, 7, [1]) for name in "xy")
    node = onnx.helper.make_node("Gather", ["t", "x"], ["y"])
    graph = onnx.helper.make_graph([node], "g", [x], [y], [table])
    opsets = [onnx.helper.make_opsetid("", 17)]
    onnx.save(onnx.helper.make_model(graph, opset_imports=opsets, ir_version=9), files / "n.onnx")
    assert (files / "n.onnx").stat().st_size < 2_000_000
    done = run(pack, files / "n.onnx", "-o", files / "p.onnx", "--profile", profile)
    assert done.exit_code == 0, done.output
    assert onnx.load(files / "n.onnx") == packed.unpack(files / "p.onnx")


def test_inspect_prints_a_table_json_and_csv(files):
    run(pack, files / "m.onnx", "-o", files / "p.onnx")
    table = run(inspect, files / "p.onnx").output
    assert "fc0.weight" in table and "redundancy" in table and "neither weights" in table
    info = json.loads(run(inspect, files / "p.onnx", "--json").output)
    assert info["profile"] == "compact" and len(info["tensors"]) == 4
    assert info["tensors"][0]["shape"] == [60, 40] and info["tensors"][0]["rate"] > 5
    rows = list(csv.DictReader(io.StringIO(run(inspect, files / "p.onnx", "--csv").output)))
    shapes = {row["name"]: row["shape"] for row in rows}
    assert shapes == {
        "fc0.weight": "60x40",
        "fc0.bias": "40",
        "fc1.weight": "40x10",
        "fc1.bias": "10",
    }


def test_damage_is_one_line_and_exit_code_1(files):
    run(pack, files / "m.onnx", "-o", files / "p.onnx")
    data = bytearray((files / "p.onnx").read_bytes())
    data[-100] ^= 1
    (files / "p.onnx").write_bytes(data)
    for command in ("verify", "inspect", "unpack"):
        extra = ("-o", files / "u.onnx") if command == "unpack" else ()
        done = run(cli, command, files / "p.onnx", *extra)
        assert done.exit_code == 1
        assert done.output.startswith("error: ") and done.output.count("\n") == 1


def test_missing_and_wrong_files(files):
    assert run(cli, "verify", files / "nothing.onnx").exit_code == 4
    assert run(cli, "pack", files / "nothing.onnx", "-o", files / "p.onnx").exit_code == 4
    (files / "text.onnx").write_text("no model at all")
    assert run(cli, "pack", files / "text.onnx", "-o", files / "p.onnx").exit_code == 2
    for command in ("verify", "inspect", "unpack"):
        extra = ("-o", files / "u.onnx") if command == "unpack" else ()
        for name in ("text.onnx", "m.onnx"):
            done = run(cli, command, files / name, *extra)
            assert done.exit_code == 1
            assert done.output.startswith(f"error: {files / name}: not a ")


@pytest.mark.parametrize("command", ["pack", "unpack", "compress"])
@pytest.mark.parametrize("taken", ["out.onnx", "out.onnx.data", "in.onnx"])
def test_nothing_is_replaced_without_force(files, command, taken):
    model = onnx.load(files / "m.onnx")
    packed.save(packed.pack(model) if command == "unpack" else model, files / "in.onnx")
    if taken != "in.onnx":
        (files / taken).write_text("precious")
    before = (files / taken).read_bytes()
    output = files / taken.removesuffix(".data")
    done = run(cli, command, files / "in.onnx", "-o", output)
    what = "is the input" if taken == "in.onnx" else "exists"
    message = f"error: {files / taken} {what}: give another name, or --force to replace it\n"
    assert (done.exit_code, done.output) == (2, message)
    assert (files / taken).read_bytes() == before
    if command != "compress":
        assert run(cli, command, files / "in.onnx", "-o", output, "--force").exit_code == 0
        assert packed.is_packed(output) is (command == "pack")


@pytest.mark.parametrize("command", ["pack", "unpack", "compress"])
def test_an_output_in_a_folder_that_is_not_there(files, command):
    done = run(cli, command, files / "m.onnx", "-o", files / "no" / "p.onnx")
    assert done.exit_code == 2 and done.output.startswith(f"error: no folder '{files / 'no'}'")


def test_what_gains_nothing_is_said(files):
    noise = np.random.default_rng(0).standard_normal((64, 64)).astype(np.float32)
    onnx.save(of_weights([noise]), files / "float.onnx")
    done = run(pack, files / "float.onnx", "-o", files / "p.onnx", "--profile", "portable")
    assert done.exit_code == 0 and done.output.count("\n") == 1
    assert "portable gains nothing here: use compact, or quantize first" in done.output
    noise = np.random.default_rng(0).integers(0, 256, (64, 64)).astype(np.uint8)
    onnx.save(of_weights([noise]), files / "noise.onnx")
    done = run(pack, files / "noise.onnx", "-o", files / "p.onnx", "--force")
    assert "compact gains nothing here: quantize first" in done.output


def test_data_beside_the_model_count_too(files):
    model = onnx.load(files / "m.onnx")
    size = (files / "m.onnx").stat().st_size
    onnx.save(model, files / "two.onnx", save_as_external_data=True, size_threshold=0)
    assert (files / "two.onnx").stat().st_size < size / 4
    done = run(pack, files / "two.onnx", "-o", files / "p.onnx")
    rate = size / (files / "p.onnx").stat().st_size
    assert f"{rate:.1f}" in done.output or f"{rate:.2f}" in done.output


@pytest.mark.parametrize(("number", "text"), [(28, "No space left"), (13, "Permission denied")])
def test_a_disk_that_refuses_is_one_line(files, monkeypatch, number, text):
    def refuse(*_):
        raise OSError(number, os.strerror(number))

    (files / "p.onnx").write_text("before")
    monkeypatch.setattr(os, "fsync", refuse)
    done = run(cli, "pack", files / "m.onnx", "-o", files / "p.onnx", "--force")
    assert done.exit_code == 1 and done.output.startswith(f"error: {text}")
    assert done.output.count("\n") == 1
    assert (files / "p.onnx").read_text() == "before"
    assert sorted(path.name for path in files.iterdir()) == ["m.onnx", "p.onnx"]


def test_a_folder_that_may_not_be_written(files):
    if os.geteuid() == 0:
        pytest.skip("root may write anywhere")
    files.chmod(0o500)
    done = run(cli, "pack", files / "m.onnx", "-o", files / "p.onnx")
    files.chmod(0o700)
    assert done.exit_code == 1 and "Permission denied" in done.output
