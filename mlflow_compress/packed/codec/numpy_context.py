"""The numpy backend of order-1 context coding (``docs/format.md``, section 6)."""

import numpy as np
import numpy.typing as npt

from mlflow_compress.errors import PackedFormatError
from mlflow_compress.packed.codec import tables
from mlflow_compress.packed.codec.numpy_codec import lane_starts, write_lanes

Bytes = npt.NDArray[np.uint8]
MAX_LENGTH = 11


def encode(
    symbols: Bytes, lengths: Bytes, classes: Bytes, per_lane: int
) -> tuple[npt.NDArray[np.int64], bytes]:
    """Write contiguous lanes in which the symbol before chooses the code.

    Args:
        symbols: what to code; before the first of a lane there is a 0.
        lengths: code lengths, shape (4, 256), one table per class.
        classes: the class, below 4, that each of 256 symbols stands for.
        per_lane: symbols per lane and group.
    """
    sizes, _ = lane_starts(len(symbols), per_lane, 1)
    starts = np.cumsum(sizes) - sizes
    before = np.zeros(len(symbols), np.uint8)
    before[1:] = symbols[:-1]
    before[starts[sizes > 0]] = 0
    key = classes[before].astype(np.intp) << 8 | symbols
    codes = np.stack([tables.canonical_codes(table) for table in lengths]).reshape(-1)
    return write_lanes(codes[key], lengths.reshape(-1)[key], sizes)


def decode(
    data: Bytes,
    lane_bytes: npt.NDArray[np.int64],
    lengths: Bytes,
    classes: Bytes,
    count: int,
    per_lane: int,
    what: str,
) -> Bytes:
    """Read lanes written by :func:`encode`, all in lock step.

    Raises:
        PackedFormatError: if a lane does not end where it should.
    """
    sizes, _ = lane_starts(count, per_lane, 1)
    built = [tables.decoding_table(table) for table in lengths]
    symbols = np.concatenate([table for table, _ in built])
    widths = np.concatenate([table for _, table in built])
    starts = np.cumsum(lane_bytes) - lane_bytes
    longest = int(sizes.max())
    padded = np.concatenate([data, np.zeros(longest * tables.MAX_LENGTH // 8 + 16, np.uint8)])
    words = np.ndarray((len(padded) - 7,), "<u8", padded, 0, (1,))
    offsets = classes.astype(np.intp) << tables.MAX_LENGTH
    mask = np.uint64((1 << tables.MAX_LENGTH) - 1)
    at = starts * 8
    out = np.empty((longest, len(sizes)), np.uint8)
    for step in range(longest):
        active = np.flatnonzero(sizes > step)
        table = offsets[out[step - 1, active]] if step else offsets[0]
        here = at[active]
        word = words[here >> 3] >> (here & 7).astype(np.uint64)
        index = (word & mask).astype(np.intp) + table
        out[step, active] = symbols[index]
        at[active] = here + widths[index]
    if not np.array_equal((at + 7) // 8 - starts, lane_bytes):
        raise PackedFormatError(f"{what}: a Huffman lane does not end where it should")
    return np.concatenate([out[:size, lane] for lane, size in enumerate(sizes.tolist())])
