"""The two bit layouts, without onnx: both directions, sizes, and what is refused."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlflow_compress.errors import PackedFormatError
from mlflow_compress.packed.codec import streams
from mlflow_compress.packed.codec.trees import MAX_SYMBOLS, make_code, read_tree


def drawn(alphabet, count, skew, seed=0):
    """Symbols of a skewed alphabet, all of them present, and their histogram."""
    rng = np.random.default_rng(seed)
    shares = skew ** -np.arange(alphabet, dtype=float)
    symbols = rng.choice(alphabet, count, p=shares / shares.sum())
    symbols[:alphabet] = np.arange(alphabet)
    return symbols, np.bincount(symbols, minlength=alphabet)


def entropy_bytes(counts):
    shares = counts / counts.sum()
    return -(counts * np.log2(shares)).sum() / 8


CASES = [(2, 500, 5.0), (2, 9000, 1.0), (3, 50_000, 2.0), (16, 30_000, 1.2), (16, 16, 1.0)]
CASES += [(255, 60_000, 1.03), (256, 60_000, 1.0), (257, 60_000, 1.0), (MAX_SYMBOLS, 90_000, 1.002)]


@pytest.mark.parametrize("step", [64, 128])
@pytest.mark.parametrize(("alphabet", "count", "skew"), [(1, 700, 1.0), *CASES])
def test_segments_both_ways(alphabet, count, skew, step):
    symbols, counts = drawn(alphabet, count, skew)
    coded = streams.encode_segments(symbols, counts, step)
    sizes = coded.stream.nbytes + coded.starts.nbytes + coded.tree.nbytes
    assert sizes == streams.segments_bytes(counts, step)
    places = streams.decode_segments(
        coded.stream, coded.starts.astype(np.int64), coded.tree, alphabet, count, "w"
    )
    assert np.array_equal(coded.order[places], symbols)


@pytest.mark.parametrize(("alphabet", "count", "skew"), CASES)
def test_levels_both_ways(alphabet, count, skew):
    symbols, counts = drawn(alphabet, count, skew)
    coded = streams.encode_levels(symbols, counts, 12)
    assert coded.bits.nbytes == streams.levels_bytes(counts, 12)
    places = streams.decode_levels(coded.bits, alphabet, count, 12, "w")
    assert np.array_equal(coded.order[places], symbols)


def test_a_dense_stream_is_close_to_its_entropy():
    symbols, counts = drawn(255, 400_000, 1.03)
    coded = streams.encode_segments(symbols, counts, 128)
    total = coded.stream.nbytes + coded.starts.nbytes + coded.tree.nbytes
    assert total < 1.02 * entropy_bytes(counts)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 10**6), min_size=2, max_size=60), st.integers(6, 15))
def test_codes_are_complete_canonical_and_no_longer_than_allowed(counts, limit):
    code, symbols = make_code(np.array(counts), limit)
    assert sorted(symbols) == list(range(len(counts)))
    assert int(code.lengths.max()) <= limit
    assert sum(2.0**-length for length in code.lengths) == 1
    words = [f"{value:0{size}b}" for value, size in zip(code.codes, code.lengths, strict=True)]
    assert words == sorted(words) and [len(word) for word in words] == sorted(map(len, words))
    again = read_tree(code.tree_bits(), len(counts), "w")
    assert np.array_equal(again.codes, code.codes)


def test_lengths_are_optimal():
    code, symbols = make_code(np.array([1, 1, 2, 3, 5, 8, 13, 21]), 15)
    lengths = dict(zip(symbols.tolist(), code.lengths.tolist(), strict=True))
    assert [lengths[symbol] for symbol in range(8)] == [7, 7, 6, 5, 4, 3, 2, 1]
    code, _ = make_code(np.array([1, 1, 2, 3, 5, 8, 13, 21]), 4)
    assert code.lengths.tolist() == [2, 2, 3, 3, 4, 4, 4, 4]


TREES = {
    "empty": ([], 2, "not canonical"),
    "cut off": ([1, 1, 0, 0], 4, "not canonical"),
    "an inner node before a leaf": ([1, 0, 0, 0], 3, "not canonical"),
    "too few leaves": ([0, 0], 3, "2 leaves, 3 are needed"),
    "too many leaves": ([1, 1, 0, 0, 0, 0], 2, "not canonical"),
    "too deep": ([0, 1] * 16 + [0, 0], 18, "longer than 15"),
}


@pytest.mark.parametrize("case", TREES)
def test_a_bad_tree_is_refused(case):
    bits, codes, cause = TREES[case]
    with pytest.raises(PackedFormatError, match=f"tensor 'w': .*{cause}"):
        read_tree(np.array(bits, np.uint8), codes, "w")


def damaged(where, change):
    symbols, counts = drawn(16, 3000, 1.2)
    coded = streams.encode_segments(symbols, counts, 64)
    parts = {
        "stream": coded.stream.copy(),
        "starts": coded.starts.astype(np.int64),
        "tree": coded.tree.copy(),
    }
    parts[where] = change(parts[where])
    return lambda count=3000: streams.decode_segments(
        parts["stream"], parts["starts"], parts["tree"], 16, count, "w"
    )


def put(place, value):
    def change(array):
        array.flat[place] = value
        return array

    return change


@pytest.mark.parametrize(
    ("where", "change", "cause"),
    [
        ("starts", put(0, 1), "wrong segment starts"),
        ("starts", put(3, 16), "wrong segment starts"),
        ("starts", put(3, -1), "wrong segment starts"),
        ("starts", lambda starts: starts[:-1], "wrong segment starts"),
        ("stream", lambda stream: stream[:-1], "wrong segment starts"),
        ("tree", lambda tree: tree[:-3], "code tree"),
    ],
)
def test_parts_that_contradict_each_other_are_refused(where, change, cause):
    with pytest.raises(PackedFormatError, match=f"tensor 'w': {cause}|tensor 'w': the {cause}"):
        damaged(where, change)()


@pytest.mark.parametrize("count", [2999, 3001])
def test_a_wrong_count_is_refused(count):
    with pytest.raises(PackedFormatError, match="symbols"):
        damaged("tree", lambda tree: tree)(count)


def test_no_flipped_bit_goes_unnoticed_or_crashes():
    """A flip changes the symbols or is refused; only in the last, cut off code it does nothing."""
    symbols, counts = drawn(16, 600, 1.2)
    coded = streams.encode_segments(symbols, counts, 64)
    wanted = [int(i) for i in np.argsort(coded.order)[symbols]]
    bits = range(0, int(coded.stream.size * 8), 5)
    refused = changed = same = 0
    for bit in bits:
        stream = coded.stream.copy()
        stream.flat[bit // 8] ^= 128 >> bit % 8
        try:
            got = streams.decode_segments(
                stream, coded.starts.astype(np.int64), coded.tree, 16, 600, "w"
            )
        except PackedFormatError:
            refused += 1
            continue
        changed += got.tolist() != wanted
        same += got.tolist() == wanted
    assert refused + changed + same == len(bits)
    # many flips only change symbols, because Huffman codes synchronise: hence the checksums
    assert same < 12 and refused > 100 and changed > 100


@pytest.mark.parametrize(
    ("change", "count", "cause"),
    [
        (lambda bits: bits[:-9], 3000, "end too early"),
        (lambda bits: np.vstack([bits, bits[:1]]), 3000, "left over"),
        (lambda bits: bits, 3001, "end too early|left over"),
        (lambda bits: bits, 2000, "left over"),
        (put(0, 0xFF), 3000, "do not begin with 01"),
        (lambda bits: bits[:2], 16, "not canonical"),
        (lambda bits: bits[:2], 3000, "3000 symbols in 2 bytes"),
    ],
)
def test_damaged_levels_are_refused(change, count, cause):
    symbols, counts = drawn(16, 3000, 1.2)
    coded = streams.encode_levels(symbols, counts, 12)
    with pytest.raises(PackedFormatError, match=f"tensor 'w': .*({cause})"):
        streams.decode_levels(change(coded.bits.copy()), 16, count, 12, "w")


def test_more_symbols_than_bits_are_refused_before_anything_is_allocated():
    symbols, counts = drawn(16, 3000, 1.2)
    levels = streams.encode_levels(symbols, counts, 12)
    with pytest.raises(PackedFormatError, match="1099511627776 symbols in"):
        streams.decode_levels(levels.bits, 16, 1 << 40, 12, "w")
    with pytest.raises(PackedFormatError, match="1099511627776 symbols in"):
        damaged("tree", lambda tree: tree)(1 << 40)


def test_levels_deeper_than_the_function_reads_are_refused():
    symbols, counts = drawn(16, 3000, 1.6)
    coded = streams.encode_levels(symbols, counts, 12)
    with pytest.raises(PackedFormatError, match="its function reads 5"):
        streams.decode_levels(coded.bits, 16, 3000, 5, "w")
