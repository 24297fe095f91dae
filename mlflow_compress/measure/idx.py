"""Reads MNIST's own format: IDX files of images and labels, plain or gzipped."""

import gzip
import math
import zlib
from pathlib import Path

import numpy as np

from mlflow_compress.errors import DataError, DataNotFoundError
from mlflow_compress.measure.data import LABELS, ONLY_INPUT

__all__ = ["is_idx", "read_idx"]

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
    try:
        data = path.read_bytes()
        data = gzip.decompress(data) if path.suffix == ".gz" else data
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"data file {str(path)!r} cannot be read: {error}") from error
    kind, rank = (data[2], data[3]) if len(data) >= 4 and data[:2] == b"\0\0" else (0, 0)
    if kind not in _DTYPES or not rank or len(data) < 4 + 4 * rank:
        raise DataError(f"data file {str(path)!r} is no IDX file")
    shape = np.frombuffer(data, ">u4", rank, 4).tolist()
    dtype, start = np.dtype(_DTYPES[kind]), 4 + 4 * rank
    if len(data) != start + math.prod(shape) * dtype.itemsize:
        raise DataError(
            f"data file {str(path)!r} has {len(data)} bytes, its header says "
            f"{start + math.prod(shape) * dtype.itemsize}"
        )
    return np.frombuffer(data, dtype, offset=start).reshape(shape).astype(dtype.newbyteorder("="))
