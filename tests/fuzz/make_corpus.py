"""Writes seeds for the harnesses: good payloads of every kind, behind the bytes that choose."""

import sys
from pathlib import Path

import numpy as np

from mlflow_compress.packed.codec import streams
from tests.packed.payloads import samples


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, payload, count, width in samples(small=True):
        head = bytes([(width.bit_length() - 1) | (count >> 16) << 2, count >> 8 & 255, count & 255])
        Path(folder, name).write_bytes(head + payload)


def portable(folder: Path) -> None:
    """Seeds of fuzz_portable.c: segments and levels of several alphabets."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    for alphabet, count in (
        (1, 600),
        (2, 3000),
        (16, 2500),
        (255, 9000),
        (300, 4000),
        (1024, 3000),
    ):
        symbols = np.minimum(rng.geometric(4 / (alphabet + 4), count) - 1, alphabet - 1)
        symbols[:alphabet] = np.arange(alphabet)
        counts = np.bincount(symbols, minlength=alphabet)
        middle = alphabet.to_bytes(2, "little") + count.to_bytes(3, "little") + bytes(2)
        for step in (64, 128):
            coded = streams.encode_segments(symbols, counts, step)
            head = (16 if step == 128 else 0) | (32 if coded.starts.itemsize == 2 else 0)
            head |= 4 * (step == 128)  # width 2
            parts = (coded.tree, coded.starts, coded.stream)
            data = bytes([head]) + middle + b"".join(part.tobytes() for part in parts)
            Path(folder, f"segments{alphabet}-{step}").write_bytes(data)
        if alphabet > 1:
            levels = streams.encode_levels(symbols, counts, 12)
            data = bytes([2 | 16]) + middle + levels.bits.tobytes()
            Path(folder, f"levels{alphabet}").write_bytes(data)
    moves = rng.integers(1, 256, 400).astype(np.uint8).tobytes()
    Path(folder, "scatter").write_bytes(bytes([3, 0, 0, 0, 200, 0, 0, 0]) + 2 * moves)


if __name__ == "__main__":
    np.seterr(all="raise")
    main(Path(sys.argv[1]))
    portable(Path(sys.argv[2]))
