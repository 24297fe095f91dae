"""Reads MNIST's own format: IDX files of images and labels, plain or gzipped."""

import gzip
import math
import zlib
from pathlib import Path

import numpy as np

from mlflow_compress.errors import DataError, DataNotFoundError
from mlflow_compress.measure.data import LABELS, ONLY_INPUT

__all__ = ["is_idx", "read_idx"]

_DEFLATE = 1032
"""Times that the algorithm can make a file smaller at the most; a header may say anything."""

_MOST_AXES = 8

_DTYPES = {8: ">u1", 9: ">i1", 11: ">i2", 12: ">i4", 13: ">f4", 14: ">f8"}
"""The third byte of an IDX file tells what it holds."""


def is_idx(path: Path) -> bool:
    """Whether a path is a folder, or a file named as MNIST's are."""
    return path.is_dir() or "-idx" in path.name


def read_idx(path: Path) -> dict[str, np.ndarray]:
    """Read images with their labels.

    Args:
        path: a file of images (``t10k-images-idx3-ubyte.gz``), whose labels lie beside it under
            the name with ``labels`` and ``idx1``, or a folder: then the training images in it.

    Returns:
        The images, [rows, ...], bytes scaled to float32 from 0 to 1, for the model's only input;
        and the labels if their file is there.

    Raises:
        DataNotFoundError: there are no training images in the folder.
        DataError: a file is no IDX file, or not whole.
    """
    if path.is_dir():
        found = sorted(path.glob("train-images*idx*"))
        if not found:
            raise DataNotFoundError(
                f"data folder {str(path)!r} holds no train-images-idx3-ubyte or .gz"
            )
        path = found[0]
    images = _read(path)
    if images.dtype == np.uint8:
        images = images.astype(np.float32) / np.float32(255)
    made = {ONLY_INPUT: images}
    name = path.name.replace("images", "labels").replace("idx3", "idx1")
    beside = path.with_name(name)
    if name != path.name and beside.is_file():
        made[LABELS] = _read(beside)
    return made


def _read(path: Path) -> np.ndarray:
    if not path.is_file():
        raise DataError(f"data file {str(path)!r} is no plain file")
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            head = file.read(4)
            kind, rank = (head[2], head[3]) if len(head) == 4 and head[:2] == b"\0\0" else (0, 0)
            sizes = file.read(4 * rank)
            if kind not in _DTYPES or not 1 <= rank <= _MOST_AXES or len(sizes) < 4 * rank:
                raise DataError(f"data file {str(path)!r} is no IDX file")
            shape, dtype = np.frombuffer(sizes, ">u4").tolist(), np.dtype(_DTYPES[kind])
            told = math.prod(shape) * dtype.itemsize
            data = file.read(min(told + 1, _DEFLATE * path.stat().st_size))
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"data file {str(path)!r} cannot be read: {error}") from error
    if len(data) != told:
        there = f"{len(data):,}" if len(data) < told else "more"
        raise DataError(
            f"data file {str(path)!r} holds {there} bytes of data, its header says {told:,}"
        )
    return np.frombuffer(data, dtype).reshape(shape).astype(dtype.newbyteorder("="))
