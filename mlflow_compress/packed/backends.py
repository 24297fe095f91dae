"""Which implementation runs: C when it was built, numpy otherwise; never swapped silently."""

from typing import Literal

import numpy as np
import numpy.typing as npt

from mlflow_compress.packed import arrays, numpy_codec
from mlflow_compress.packed.arrays import Items
from mlflow_compress.packed.numpy_codec import encode_lanes, histogram

__all__ = ["backend", "decode", "distinct", "encode_lanes", "histogram"]

backend: Literal["c", "numpy"] = "numpy"
_SAMPLE = 1 << 16


def decode(payload: bytes | memoryview, out: npt.NDArray[np.uint8], width: int, what: str) -> None:
    """Decode a payload into ``out`` (its bytes).

    Raises:
        PackedFormatError: if the payload breaks the format.
    """
    out[:] = arrays.decode(payload, len(out) // width, width, what).view(np.uint8)


def distinct(items: Items, most: int) -> tuple[Items, npt.NDArray[np.uint16]] | None:
    """The sorted distinct items and each item's index, or None if there are more than ``most``."""
    if len(np.unique(items[:_SAMPLE])) > most:
        return None
    values, indices = np.unique(items, return_inverse=True)
    return (values, indices.astype(np.uint16)) if len(values) <= most else None
