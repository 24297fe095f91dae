import numpy as np
import onnx
import onnxruntime
import packed_models as models
import pytest
from onnx import helper, numpy_helper

from mlflow_compress import packed
from mlflow_compress.errors import PackedFormatError, SourceError, SourceNotFoundError


def serial(model):
    return model.SerializeToString(deterministic=True)


def test_pack_is_lossless_valid_deterministic_and_does_not_mutate():
    model = models.mlp()
    before = serial(model)
    out = packed.pack(model)
    assert serial(model) == before
    models.check(out)
    assert packed.to_bytes(packed.pack(model)) == packed.to_bytes(out)
    assert serial(packed.unpack(out)) == before
    assert serial(packed.unpack(packed.to_bytes(out))) == before
    assert len(packed.to_bytes(out)) < len(before) / 30


def test_load_runs_a_packed_file_and_a_plain_one(tmp_path):
    model = models.mlp()
    path, plain = tmp_path / "packed.onnx", tmp_path / "plain.onnx"
    packed.save(packed.pack(model), path)
    packed.save(model, plain)
    x = np.random.default_rng(1).standard_normal((5, 784)).astype(np.float32)
    expected = onnxruntime.InferenceSession(serial(model)).run(None, {"x": x})[0]
    for source in (path, path.read_bytes(), plain, plain.read_bytes()):
        assert np.array_equal(packed.load(source).run(None, {"x": x})[0], expected)


def test_is_packed(tmp_path):
    model = models.mlp(dims=(20, 10))
    out = packed.pack(model)
    assert packed.is_packed(out) and packed.is_packed(packed.to_bytes(out))
    assert not packed.is_packed(model)
    packed.save(out, tmp_path / "p.onnx")
    assert packed.is_packed(tmp_path / "p.onnx")
    with pytest.raises(SourceNotFoundError, match="no model file"):
        packed.is_packed(tmp_path / "missing.onnx")


def test_packing_twice_is_refused():
    with pytest.raises(SourceError, match="packed already"):
        packed.pack(packed.pack(models.mlp()))


def test_a_small_model_spends_under_1000_bytes_on_the_rest():
    for centroids in (16, 64):
        model = models.mlp(centroids=centroids)
        assert packed.inspect(packed.pack(model)).overhead_bytes <= 1000


def test_inspect_names_every_weight():
    model = models.mlp()
    info = packed.inspect(packed.pack(model))
    assert [t.name for t in info.tensors] == [t.name for t in model.graph.initializer]
    assert info.profile == "compact" and info.format_version == 1
    first = info.tensors[0]
    assert first.shape == (784, 300) and first.dtype == "float" and first.distinct == 32
    assert first.encoding.startswith("codebook+gaps")
    assert first.bytes_before == 784 * 300 * 4
    assert abs(first.sparsity - 0.92) < 0.01
    assert first.entropy < first.bits_spent < 1.05 * first.entropy
    assert sum(t.bytes_after for t in info.tensors) < info.file_bytes


def test_a_flipped_bit_anywhere_is_found():
    data = bytearray(packed.to_bytes(packed.pack(models.mlp(dims=(40, 30, 10)))))
    rng = np.random.default_rng(0)
    for at in rng.integers(0, len(data), 300):
        bit = 1 << int(rng.integers(8))
        data[at] ^= bit
        with pytest.raises(PackedFormatError):
            packed.verify(bytes(data))
        data[at] ^= bit
    packed.verify(bytes(data))


@pytest.mark.parametrize("profile", ["compact", "portable"])
def test_two_values_of_one_name_are_refused(tmp_path, profile):
    """onnxruntime runs such a file; a reader would look for a weight and find the other."""
    twice = models.mlp()
    twice.graph.initializer.add().CopyFrom(twice.graph.initializer[0])
    onnx.save(twice, tmp_path / "twice.onnx")
    named = f"two values named '{twice.graph.initializer[0].name}'"
    for attempt in (
        lambda: packed.pack(twice, profile),
        lambda: packed.pack_file(tmp_path / "twice.onnx", tmp_path / "out.onnx", profile),
    ):
        with pytest.raises(SourceError, match=named):
            attempt()
    assert not (tmp_path / "out.onnx").exists()


def test_weights_are_looked_up_in_the_graph_once_and_come_back_in_their_places(monkeypatch):
    from mlflow_compress.packed.onnx import graphs

    made = []

    class Counted(graphs.Described):
        def __init__(self, graph):
            super().__init__(graph)
            made.append(graph.name)

    monkeypatch.setattr(graphs, "Described", Counted)
    rng = np.random.default_rng(0)
    names = [f"w{number}" for number in range(40)]
    model = helper.make_model(
        helper.make_graph(
            [helper.make_node("Sum", ["x", *names], ["y"])],
            "many",
            [helper.make_tensor_value_info(name, 1, [200]) for name in ["x", *names[::-3]]],
            [helper.make_tensor_value_info("y", 1, [200])],
            [
                numpy_helper.from_array(rng.normal(size=200 if i % 4 else 2).astype("f4"), name)
                for i, name in enumerate(names)
            ],
            value_info=[helper.make_tensor_value_info(name, 1, [200]) for name in names[::2]],
        )
    )
    assert packed.unpack(packed.pack(model)) == model
    assert made == ["many"]
