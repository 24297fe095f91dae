"""Writes seeds for the harness: good payloads of every kind, behind its three bytes."""

import sys
from pathlib import Path

import numpy as np

from tests.packed.payloads import samples


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, payload, count, width in samples(small=True):
        head = bytes([(width.bit_length() - 1) | (count >> 16) << 2, count >> 8 & 255, count & 255])
        Path(folder, name).write_bytes(head + payload)


if __name__ == "__main__":
    np.seterr(all="raise")
    main(Path(sys.argv[1]))
