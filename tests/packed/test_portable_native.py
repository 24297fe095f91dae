"""The C and the numpy reader of portable bit strings: the same items, the same refusals."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mlflow_compress.errors import PackedFormatError
from mlflow_compress.packed.codec import backends, in_numpy, streams
from tests.packed.codecs import need_c, use_fast_paths

UNSIGNED = {1: np.uint8, 2: np.uint16, 4: np.uint32, 8: np.uint64}


def drawn(alphabet, count, skew, width=1, seed=0):
    """Items of a skewed alphabet, all of it present: their ranks, histogram and values."""
    rng = np.random.default_rng(seed)
    shares = skew ** -np.arange(alphabet, dtype=float)
    ranks = rng.choice(alphabet, count, p=shares / shares.sum())
    ranks[:alphabet] = np.arange(alphabet)
    most = 1 << min(8 * width, 63)
    if alphabet > most // 2:
        values = rng.permutation(alphabet)
    else:
        values = rng.choice(min(most, 1 << 20), alphabet, replace=False) * (most >> 20 or 1)
    return ranks, np.bincount(ranks, minlength=alphabet), values.astype(UNSIGNED[width])


def segments_of(alphabet, count, skew, width=1, step=64, seed=0):
    """The arguments of ``portable_segments``, and the items that it must give."""
    ranks, counts, values = drawn(alphabet, count, skew, width, seed)
    coded = streams.encode_segments(ranks, counts, step)
    return [coded.stream, coded.starts, coded.tree, values[coded.order]], values[ranks]


def both(read, *args, count, dtype):
    """What each backend makes of the arguments: items, or None where it refuses them."""
    need_c()
    results = []
    for module, fast in ((backends, True), (backends, False), (in_numpy, True)):
        out = np.empty(count, dtype)
        try:
            use_fast_paths(fast)
            getattr(module, read)(*args, out, "w")
            results.append(out.tobytes())
        except PackedFormatError as error:
            assert str(error).startswith("tensor 'w': ") and "\n" not in str(error)
            results.append(None)
        finally:
            use_fast_paths(True)
    assert results[0] == results[1] == results[2]
    return results[0]


CASES = [(1, 700, 1.0), (2, 500, 5.0), (2, 9000, 1.0), (3, 50_000, 2.0), (16, 30_000, 1.2)]
CASES += [(16, 16, 1.0), (255, 200_000, 1.03), (256, 60_000, 1.0), (40, 90_000, 1.9)]
WIDE = [(257, 60_000, 1.0), (1024, 90_000, 1.002)]


@pytest.mark.parametrize("step", [64, 128])
@pytest.mark.parametrize(
    ("width", "case"),
    [(1, case) for case in CASES] + [(w, case) for w in (2, 4, 8) for case in (*CASES[:4], *WIDE)],
)
def test_segments_come_back(width, case, step):
    args, items = segments_of(*case, width, step)
    got = both("portable_segments", *args, count=len(items), dtype=items.dtype)
    assert got == items.tobytes()


def test_codes_of_15_bits_come_back():
    """The writer stops at 12, the format does not."""
    counts = np.array([1, 1, *(1 << i for i in range(14))], np.int64)
    ranks = np.random.default_rng(0).permutation(np.repeat(np.arange(16), counts))
    limit, streams.SEGMENT_LIMIT = streams.SEGMENT_LIMIT, 15
    try:
        coded = streams.encode_segments(ranks, counts, 64)
    finally:
        streams.SEGMENT_LIMIT = limit
    values = np.arange(16, dtype=np.uint8)[coded.order]
    args = [coded.stream, coded.starts, coded.tree, values]
    got = both("portable_segments", *args, count=len(ranks), dtype=np.uint8)
    assert got == ranks.astype(np.uint8).tobytes()


@pytest.mark.parametrize("count", [1, 63, 64, 65, 511, 512, 513, 4095, 4096, 4097, 36_865])
def test_any_number_of_segments(count):
    """Two equally frequent values in a code of 1 and 2 bits: segments begin in a code or not."""
    args, items = segments_of(1 if count < 2 else 2, count, 1.0)
    got = both("portable_segments", *args, count=count, dtype=np.uint8)
    assert got == items.tobytes()


@pytest.mark.parametrize("width", [1, 2, 4, 8])
@pytest.mark.parametrize("case", [case for case in CASES if case[0] > 1])
def test_levels_come_back(width, case):
    ranks, counts, values = drawn(*case, width)
    coded = streams.encode_levels(ranks, counts, 12)
    args = [coded.bits, values[coded.order], 12]
    got = both("portable_levels", *args, count=len(ranks), dtype=values.dtype)
    assert got == values[ranks].tobytes()


def change(array, data):
    """Change some bytes of an array, or its length by a little."""
    out = np.frombuffer(bytearray(array.tobytes()), array.dtype).reshape(array.shape).copy()
    flat = out.reshape(-1).view(np.uint8)
    for _ in range(data.draw(st.integers(0, 3))):
        place = data.draw(st.integers(0, len(flat) - 1))
        flat[place] = data.draw(st.one_of(st.integers(0, 255), st.just(int(flat[place]) ^ 1)))
    return out


@settings(max_examples=400, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_damaged_segments_are_treated_alike(data):
    alphabet, count, skew = data.draw(
        st.sampled_from([(1, 900, 1), (2, 900, 3), (16, 3000, 1.2), (255, 3000, 1.02)])
    )
    args, items = segments_of(alphabet, count, skew, data.draw(st.sampled_from([1, 4])))
    place = data.draw(st.integers(0, 2))
    args[place] = change(args[place], data)
    if data.draw(st.booleans()):
        args[0], args[1] = args[0][:-1], args[1][: data.draw(st.sampled_from([-1, None]))]
        if not len(args[0]) or len(args[0]) != len(args[1]):
            return  # the reader of the file refuses these
    count += data.draw(st.integers(-1, 1))
    both("portable_segments", *args, count=count, dtype=items.dtype)


@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_damaged_levels_are_treated_alike(data):
    ranks, counts, values = drawn(16, 900, 1.2)
    coded = streams.encode_levels(ranks, counts, 12)
    bits = change(coded.bits, data)[: data.draw(st.integers(-3, 0)) or None]
    if data.draw(st.booleans()):
        bits = np.vstack([bits, np.zeros((1, 1), np.uint8)])
    values = values[: data.draw(st.integers(15, 16))]
    limit = data.draw(st.sampled_from([4, 12]))
    count = 900 + data.draw(st.integers(-9, 9))
    both("portable_levels", bits, values, limit, count=count, dtype=np.uint8)


@pytest.mark.parametrize(
    ("moves", "count", "good"),
    [
        ([1], 1, True),
        ([1, 255, 3], 259, True),
        ([1, 255, 3], 258, False),
        ([0, 2], 9, False),
        ([3, 0], 9, False),
        ([9], 9, True),
        ([10], 9, False),
        ([], 5, True),
    ],
)
@pytest.mark.parametrize("width", [1, 2, 4, 8])
def test_scattering(moves, count, good, width):
    dtype = UNSIGNED[width]
    values = np.arange(1, len(moves) + 1, dtype=dtype)
    background = np.full(1, 77, dtype)
    args = (np.array(moves, np.uint8), values, background)
    got = both("portable_scatter", *args, count=count, dtype=dtype)
    assert (got is not None) == good
    if got is not None:
        out = np.full(count, 77, dtype)
        out[np.cumsum(moves, dtype=int) - 1] = values
        assert got == out.tobytes()
