"""The two backends give the same bytes, in both directions, and refuse the same payloads."""

import os
import subprocess
import sys
import threading
import zlib

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mlflow_compress import packed
from mlflow_compress.errors import PackedFormatError
from mlflow_compress.packed.codec import arrays, backends, choose, in_numpy, numpy_codec, tables
from mlflow_compress.packed.format import Cursor, varint
from tests.packed.codecs import need_c, use_fast_paths, use_numpy
from tests.packed.payloads import FLOATS, arrays_of, samples, structured


@pytest.fixture(params=["c", "c plain", "numpy"])
def backend(request, monkeypatch):
    """Each implementation in turn: C, C without the processor's special paths, numpy."""
    if request.param == "numpy":
        use_numpy(monkeypatch)
        monkeypatch.setenv(backends.VARIABLE, "numpy")
    else:
        need_c()
        use_fast_paths(request.param == "c")
    yield request.param
    use_fast_paths(True)


def decode(payload, count, width):
    out = np.empty(count * width, np.uint8)
    crc = backends.decode(payload, out, width, "tensor 'w'")
    return out, crc


def test_the_backend_of_this_run_is_the_one_that_was_asked_for():
    assert packed.backend == os.environ.get(backends.VARIABLE, "c")
    module = {"c": "in_c", "numpy": "in_numpy"}[packed.backend]
    assert backends.decode.__module__.endswith(module)


def test_both_backends_have_the_same_names():
    need_c()
    from mlflow_compress.packed.codec import in_c

    assert in_c.__all__ == in_numpy.__all__
    assert all(hasattr(backends, name) for name in in_c.__all__)


@pytest.mark.parametrize("size", [1, 2, 7, 1023, 1024, 1031, 8193, 40000, 70001])
def test_every_kind_comes_back(backend, size):
    for name, array in arrays_of(size).items():
        raw = array.tobytes()
        payload = choose.encode(raw, array.itemsize, array.dtype.kind == "f")
        out, crc = decode(payload, array.size, array.itemsize)
        assert out.tobytes() == raw, name
        assert crc == zlib.crc32(raw), name
        assert len(payload) <= len(raw) + 1, name


def test_rows_and_context_come_back(backend):
    for name, (array, row, taps) in structured(rows=1003).items():
        width = array.itemsize
        payload = choose.encode(array.tobytes(), width, name in FLOATS, row, taps)
        assert decode(payload, array.size, width)[0].tobytes() == array.tobytes(), name
        kinds, _ = arrays.summary(payload, array.size, width, name)
        assert kinds[0] == (arrays.CONTEXT if taps else arrays.ROWS)


@pytest.mark.parametrize("high", [2, 255])
def test_an_index_beyond_a_wide_codebook_is_refused(backend, high):
    payload = bytes([arrays.WIDE]) + varint(300) + bytes(4 * 300) + bytes([arrays.CONSTANT])
    with pytest.raises(PackedFormatError, match="tensor 'w': "):
        decode(payload + bytes([high]), 40, 4)
    with pytest.raises(PackedFormatError, match=f"codebook index {high * 256}, there are 300"):
        arrays.decode(payload + bytes([high]), 40, 4, "tensor 'w'")


def test_the_samples_use_every_kind():
    seen = set()
    for name, payload, count, width in samples():
        seen.update(arrays.summary(payload, count, width, name)[0])
    assert seen == set(range(len(arrays.NAMES)))


def test_a_summary_is_the_same_when_symbols_are_passed_over():
    for name, payload, count, width in samples():
        reader = arrays._Reader(Cursor(payload, name))
        reader.array(count, width, 6)
        assert arrays.summary(payload, count, width, name) == (reader.kinds, reader.data_bytes)


def test_both_backends_write_the_same_bytes(monkeypatch):
    mine = [payload for _, payload, _, _ in samples()]
    use_numpy(monkeypatch)
    assert mine == [payload for _, payload, _, _ in samples()]


@pytest.mark.parametrize("fast", [True, False])
@pytest.mark.parametrize(
    ("rows", "row", "step", "peak"), [(8, 1, 1, 0.5), (300, 333, 2, 0.9), (257, 1030, 4, 0.1)]
)
def test_both_backends_find_the_same_clusters(monkeypatch, rows, row, step, peak, fast):
    need_c()
    rng = np.random.default_rng(rows)
    spread = rng.choice([2, 9, 40, 250], (rows, 1))
    table = (rng.geometric(peak, (rows, row)) * rng.integers(0, 4, (rows, row)) % spread + 3) % 256
    symbols = table.astype(np.uint8).reshape(-1)
    use_fast_paths(fast)
    costs = backends.train_rows(symbols, row, step)
    mine = backends.assign_rows(symbols, row, 1, costs)
    use_fast_paths(True)
    use_numpy(monkeypatch)
    theirs_costs = backends.train_rows(symbols, row, step)
    theirs = backends.assign_rows(symbols, row, 1, theirs_costs)
    unpacked = costs[:, None] >> (16 * np.arange(4, dtype=np.uint64)) & np.uint64(0xFFFF)
    assert np.array_equal(unpacked.astype(float), theirs_costs)
    assert np.array_equal(mine[0], theirs[0])
    assert np.array_equal(mine[1], theirs[1])


def test_contiguous_lanes_are_read_too(backend):
    rng = np.random.default_rng(3)
    symbols = np.minimum(rng.geometric(0.2, 40003), 40).astype(np.uint8)
    lengths = tables.code_lengths(numpy_codec.histogram(symbols))
    lanes, data = numpy_codec.encode_lanes(symbols, lengths, 1700, 1)
    head = bytes([arrays.HUFFMAN]) + tables.write_lengths(lengths)
    payload = head + choose.varint(2 * 1700 + 1) + choose._lane_lengths(lanes, True) + data
    assert np.array_equal(decode(payload, len(symbols), 1)[0], symbols)


@given(
    st.lists(st.integers(1, 1 << 40), min_size=2, max_size=256),
    st.integers(8, 12),
    st.randoms(use_true_random=False),
)
def test_code_lengths_are_complete_and_equal_in_both(counts, limit, random):
    histogram = np.zeros(256, np.int64)
    histogram[random.sample(range(256), len(counts))] = counts
    lengths = tables.code_lengths(histogram, limit)
    assert lengths.max() <= limit
    assert sum(2.0 ** -int(length) for length in lengths if length) == 1
    assert np.array_equal(lengths > 0, histogram > 0)
    written = tables.write_lengths(lengths)
    assert np.array_equal(tables.read_lengths(Cursor(written, "t")), lengths)
    if backends.backend == "c":
        assert np.array_equal(backends.code_lengths(histogram, limit), lengths)
        assert backends.write_lengths(lengths) == written


def test_code_lengths_are_optimal():
    # 1, 1, 2, 4, 8 …: the deepest tree there is, so the limit bites and costs what it must
    histogram = np.zeros(256, np.int64)
    histogram[:20] = [1, *(1 << i for i in range(19))]
    free, limited = tables.code_lengths(histogram, 15), tables.code_lengths(histogram, 8)
    spent, least = int(limited @ histogram), int(free @ histogram)
    assert least < spent < 1.1 * least
    # no code of at most 8 bits that swaps a bit between two symbols is better
    for a in range(20):
        for b in range(20):
            other = limited.copy()
            other[a], other[b] = limited[b], limited[a]
            assert int(other @ histogram) >= spent


MUTATED = [sample for sample in samples(small=True) if len(sample[1]) > 8]


@settings(max_examples=1500, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_damaged_payloads_are_treated_alike(data):
    _, payload, count, width = data.draw(st.sampled_from(MUTATED))
    bad = bytearray(payload)
    for _ in range(data.draw(st.integers(1, 3))):
        # mostly in the heads, where the structure is
        top = data.draw(st.sampled_from([min(64, len(bad)), len(bad)]))
        bad[data.draw(st.integers(0, top - 1))] = data.draw(st.integers(0, 255))
    bad = bytes(bad[: data.draw(st.integers(len(bad) - 4, len(bad)))])
    try:
        expected = arrays.decode(bad, count, width, "tensor 'w'").tobytes()
    except PackedFormatError:
        expected = None
    try:
        out = decode(bad, count, width)[0].tobytes()
    except PackedFormatError:
        out = None
    assert out == expected


def test_the_environment_forces_the_backend():
    code = "from mlflow_compress import packed; print(packed.backend)"
    for wanted in ("numpy", "c"):
        run = subprocess.run(
            [sys.executable, "-c", code],
            env={"MLFLOW_COMPRESS_BACKEND": wanted, "PYTHONPATH": "."},
            capture_output=True,
            text=True,
            check=True,
        )
        assert run.stdout.strip() == wanted
    bad = subprocess.run(
        [sys.executable, "-c", code],
        env={"MLFLOW_COMPRESS_BACKEND": "rust", "PYTHONPATH": "."},
        capture_output=True,
        text=True,
        check=False,
    )
    assert "must be 'c' or 'numpy', got 'rust'" in bad.stderr


def test_without_the_extension_it_is_said_once(monkeypatch, caplog):
    use_numpy(monkeypatch)
    monkeypatch.setattr(in_numpy, "_said", threading.Lock())
    monkeypatch.delenv(backends.VARIABLE, raising=False)
    for _ in range(2):
        decode(bytes([arrays.RAW]) + b"abcd", 4, 1)
    assert [record.message for record in caplog.records] == [
        "the C extension was not built: packing runs on numpy, about 20 times slower"
    ]
