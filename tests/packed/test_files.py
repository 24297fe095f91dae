"""From file to file: the same bytes as through memory, and never the model in memory."""

import numpy as np
import onnx
import packed_models as models
import pytest
from onnx import TensorProto, helper, numpy_helper

from mlflow_compress import packed
from mlflow_compress.errors import SourceError, SourceNotFoundError
from mlflow_compress.packed.onnx import lean


def large(seed=0):
    """Tensors above and below what is left out, one in a Constant node, one typed, one empty."""
    rng = np.random.default_rng(seed)
    typed = rng.integers(0, 9, 70_000).astype(np.int32)
    arrays = [
        (rng.standard_normal((300, 200)) * 9).round().astype(np.float32),
        rng.integers(-9, 9, (500, 200)).astype(np.int8),
        rng.standard_normal(30).astype(np.float32),
        helper.make_tensor("typed", TensorProto.INT32, [70_000], typed.tolist()),
        np.zeros((0, 4), np.float32),
        rng.standard_normal((128, 300)).astype(np.float16),
    ]
    constant = numpy_helper.from_array(rng.integers(0, 3, 90_000).astype(np.uint8), "c")
    node = helper.make_node("Constant", [], ["c"], value=constant)
    model = models.of_weights(arrays, extra_nodes=[node])
    model.graph.initializer[1].doc_string = "kept"
    model.graph.initializer[0].data_location = TensorProto.DEFAULT
    return model


def saved(model, folder, external):
    path = folder / "in.onnx"
    if external:
        onnx.save(model, path, save_as_external_data=True, size_threshold=100, location="w.bin")
    else:
        onnx.save(model, path)
    return path


@pytest.mark.parametrize("profile", ["compact", "portable"])
@pytest.mark.parametrize("external", [False, True])
def test_a_file_packs_to_the_same_bytes_as_the_model(tmp_path, external, profile):
    path = saved(large(), tmp_path, external)
    model = onnx.load(path)
    out = tmp_path / "out.onnx"
    size = packed.pack_file(path, out, profile)
    assert 0 <= model.ByteSize() - size < 100  # data apart lack a few bytes of tags
    assert out.read_bytes() == packed.to_bytes(packed.pack(model, profile))
    packed.unpack_file(out, tmp_path / "again.onnx")
    assert onnx.load(tmp_path / "again.onnx") == model


@pytest.mark.parametrize("external", [False, True])
def test_two_files_where_one_would_be_too_large(tmp_path, external):
    path = saved(large(), tmp_path, external)
    out, again = tmp_path / "out.onnx", tmp_path / "again.onnx"
    packed.pack_file(path, out, largest=50_000)
    assert out.stat().st_size < 50_000 < (tmp_path / "out.onnx.data").stat().st_size
    packed.verify(out)
    packed.unpack_file(out, again, largest=50_000)
    assert (tmp_path / "again.onnx.data").is_file()
    back = onnx.load(again)
    for new, old in zip(back.graph.initializer, onnx.load(path).graph.initializer, strict=True):
        if not old.HasField("data_location"):
            new.ClearField("data_location")  # onnx.load sets it where it read another file
        assert new == old
    onnx.checker.check_model(again)


def test_what_is_left_out_is_not_in_the_copy():
    model = large()
    before = model.SerializeToString(deterministic=True)
    apart = lean.copy(model)
    assert sorted(apart.data) == [0, 1, 5]
    assert apart.model.ByteSize() < model.ByteSize() - 400_000
    assert model.SerializeToString(deterministic=True) == before
    for position, ask in apart.data.items():
        assert not apart.model.graph.initializer[position].raw_data
        apart.model.graph.initializer[position].raw_data = ask()
    assert apart.model.SerializeToString(deterministic=True) == before


def test_fields_of_a_later_onnx_survive():
    model = large()
    # field 1000 of the graph, and of a tensor, which no ONNX of today has
    for message in (model.graph, model.graph.initializer[0]):
        message.MergeFromString(bytes([0xC2, 0x3E, 3]) + b"new")
    again = packed.unpack(packed.pack(model))
    assert again.graph.SerializeToString().endswith(b"new")


def test_external_data_that_are_not_there_or_too_short(tmp_path):
    path = saved(large(), tmp_path, external=True)
    data = (tmp_path / "w.bin").read_bytes()
    (tmp_path / "w.bin").write_bytes(data[:1000])
    with pytest.raises(SourceNotFoundError, match="external data"):
        packed.pack_file(path, tmp_path / "out.onnx")
    (tmp_path / "w.bin").unlink()
    with pytest.raises(SourceNotFoundError, match="external data"):
        packed.pack_file(path, tmp_path / "out.onnx")
    (tmp_path / "w.bin").write_bytes(data)
    model = onnx.load(path, load_external_data=False)
    tensor = model.graph.initializer[0]
    next(entry for entry in tensor.external_data if entry.key == "length").value = "1000"
    path.write_bytes(model.SerializeToString())
    with pytest.raises(SourceError, match="'w0' has 1000 bytes of external data"):
        packed.pack_file(path, tmp_path / "out.onnx")
    assert not (tmp_path / "out.onnx").exists()


def test_a_packed_file_is_not_packed_again(tmp_path):
    path = saved(large(), tmp_path, external=False)
    packed.pack_file(path, tmp_path / "out.onnx")
    with pytest.raises(SourceError, match="packed already"):
        packed.pack_file(tmp_path / "out.onnx", tmp_path / "twice.onnx")
