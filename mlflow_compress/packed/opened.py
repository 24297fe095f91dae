"""A packed model taken apart: its graphs, and weights of which nothing is decoded."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from os import cpu_count
from typing import TypeVar

import numpy as np
import numpy.typing as npt
from onnx import GraphProto, ModelProto

from mlflow_compress.errors import PackedFormatError
from mlflow_compress.packed.codec import arrays, backends
from mlflow_compress.packed.format import Entry, width_of

__all__ = ["Container", "PackedGraph", "PackedWeight", "in_parallel"]

_T = TypeVar("_T")


@dataclass(frozen=True)
class PackedWeight:
    """A weight of a packed model: its name, entry and payload, nothing decoded."""

    name: str
    entry: Entry
    payload: memoryview

    def check_payload(self) -> None:
        """Compare the payload with its checksum.

        Raises:
            PackedFormatError: naming the tensor.
        """
        if backends.crc32(self.payload) != self.entry.payload_crc:
            raise PackedFormatError(f"tensor '{self.name}': packed bytes are damaged (crc32)")

    def summary(self) -> tuple[str, int]:
        """How it is coded, outermost first, and what of the payload is coded data or values."""
        width = width_of(self.entry.dtype)
        kinds, coded = arrays.summary(self.payload, self.entry.size // width, width, self.name)
        return "+".join(dict.fromkeys(arrays.NAMES[kind] for kind in kinds)), coded

    def decode_into(self, out: npt.NDArray[np.uint8]) -> None:
        """Decode into a uint8 array of ``entry.size`` bytes and check both checksums.

        Raises:
            PackedFormatError: naming the tensor and the cause.
        """
        self.check_payload()
        what = f"tensor '{self.name}'"
        crc = backends.decode(self.payload, out, width_of(self.entry.dtype), what)
        if crc != self.entry.decoded_crc:
            raise PackedFormatError(f"{what}: decoded bytes are wrong (crc32)")


@dataclass(frozen=True)
class PackedGraph:
    """One graph that lost weights, with its ``Packed`` node taken off, and those weights."""

    graph: GraphProto
    weights: list[PackedWeight]


@dataclass(frozen=True)
class Container:
    """A packed model taken apart.

    Attributes:
        model: the model without blob, ``Packed`` nodes and import; weights are still missing.
        graphs: where they are missing.
        profile: ``compact`` or ``portable``.
        file_bytes: size of the serialised packed model.
    """

    model: ModelProto
    graphs: list[PackedGraph]
    profile: str
    file_bytes: int

    def weights(self) -> Iterator[PackedWeight]:
        """All packed weights, in the directory's order."""
        for graph in self.graphs:
            yield from graph.weights


def in_parallel(
    work: Callable[[PackedWeight], _T], weights: list[PackedWeight], threads: int | None
) -> list[_T]:
    """Do something with every weight on several threads, largest first; results in order."""
    workers = min(threads or cpu_count() or 1, len(weights))
    if workers <= 1:
        return [work(weight) for weight in weights]
    order = sorted(range(len(weights)), key=lambda number: -weights[number].entry.size)
    with ThreadPoolExecutor(workers) as pool:
        tasks = {number: pool.submit(work, weights[number]) for number in order}
        return [tasks[number].result() for number in range(len(weights))]
